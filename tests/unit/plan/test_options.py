"""The options that fit, the cheapest, and the changes that help; steps, tokens, hours and bytes on disk, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recipes import MODELS

from medray.config import Config
from medray.plan import parameters
from medray.plan.cost import cost, sequence_operations
from medray.plan.gpus import parse
from medray.plan.jobs import Choice, Lengths, TaskLengths, job_of, lengths_of_limits, rows_at_once, work_of
from medray.plan.options import Given, allowed, largest_rows, plan
from medray.plan.phases import BUCKET, FRAGMENTATION, RUNTIME, run_memory
from medray.plan.show import as_json, lines

LLAMA_8B = MODELS["meta-llama/Meta-Llama-3-8B-Instruct"]
LLAMA_70B = MODELS["meta-llama/Llama-3.1-70B-Instruct"]


def config(**sections: Any) -> Config:
    base: dict[str, Any] = {
        "model": {"name": "org/model"},
        "data": {"train": ["x.jsonl"], "max_input_tokens": 1536, "max_label_tokens": 448},
        "train": {"max_steps": 100, "global_batch_size": 64, "gradient_checkpointing": True},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return Config.model_validate(base)


def given(asked: Config, model: dict[str, Any], gpus: str | None, **more: Any) -> Given:
    named = parse(gpus) if gpus else None
    values: dict[str, Any] = {
        "config": asked,
        "model": model,
        "count": parameters.from_config(model),
        "lengths": lengths_of_limits(asked, seq2seq=model["model_type"] == "t5"),
        "precision": "bf16",
        "on_gpu": True,
        "workers": named.count if named else 1,
        "gpus": named,
        "workers_per_node": named.per_node if named else 1,
    }
    return Given(**{**values, **more})


def test_8b_on_8_h100_fits_with_sharding_and_not_without() -> None:
    found = plan(given(config(), LLAMA_8B, "8xH100"))
    fits = {(one.choice.stage, one.choice.offload): one.fits for one in found.options}
    assert fits[0, False] is False  # 16 bytes for each of 8 G parameters are 128 GB
    assert fits[2, False] is True
    assert fits[3, False] is True
    assert found.cheapest is not None
    assert not found.cheapest.choice.offload
    assert found.changes == ()


def test_the_bytes_of_stage_0_are_those_of_the_states_and_more() -> None:
    job = given(config(), LLAMA_8B, "8xH100").job(Choice.of(config(train={"zero_stage": 0}), 8))
    memory, total = run_memory(job), parameters.from_config(LLAMA_8B).total
    phases = {phase.name: phase for phase in memory.phases}
    assert (
        phases["later steps"].device == 20 * total
    )  # 2 weights, 2 gradients, 12 optimizer, 4 gradients in float32
    assert memory.peak.device == phases["later steps"].device
    assert memory.device == round(20 * total * (1 + FRAGMENTATION)) + RUNTIME
    assert phases["export"].first == 2 * total
    assert phases["save"].host == 12 * -(-total // 8)


def test_a_larger_micro_batch_needs_more_and_the_largest_is_the_last_that_fits() -> None:
    one = given(config(), LLAMA_8B, "8xA100-80GB")
    choice = replace(Choice.of(one.config, 8), stage=2, checkpointing=False)
    most = largest_rows(one, choice)
    assert 0 < most < 64 // 8
    assert one.fits(run_memory(one.job(replace(choice, micro_batch_size=most))))
    assert not one.fits(run_memory(one.job(replace(choice, micro_batch_size=most + 1))))


def test_nothing_fits_says_what_would() -> None:
    found = plan(given(config(train={"gradient_checkpointing": False}), LLAMA_70B, "1x2xA100-80GB"))
    assert found.cheapest is None or found.cheapest.choice.offload
    found = plan(given(config(train={"gradient_checkpointing": False}), LLAMA_70B, "1xA100-40GB"))
    assert found.cheapest is None
    assert any("--gpus" in change for change in found.changes)
    text = "\n".join(lines(found))
    assert "no ZeRO stage or offload fits" in text
    for change in found.changes:
        assert change in text


def test_a_change_that_is_named_does_fit() -> None:
    """A 8B on one card of 40 GB: an adapter fits where full tuning does not."""
    asked = config(train={"gradient_checkpointing": False, "global_batch_size": 8})
    one = given(asked, LLAMA_8B, "1xA100-40GB", host_memory=60 * 10**9)
    found = plan(one)
    assert found.cheapest is None
    change = next(each for each in found.changes if "peft.type=lora" in each)
    values = dict(part.split("=") for part in change.removeprefix("set ").split())
    assert values["peft.type"] == "lora"
    tree = {key: int(value) if value.isdecimal() else value for key, value in values.items()}
    tree["train.gradient_checkpointing"] = values.get("train.gradient_checkpointing") == "true"
    changed = asked.override(tree)
    again = plan(replace(one, config=changed))
    assert again.asked.fits is True


def test_combinations_that_medray_refuses_are_not_offered() -> None:
    def stages(asked: Config) -> set[int]:
        return {stage for stage, _ in allowed(asked)}

    assert stages(config()) == {0, 1, 2, 3}
    assert stages(config(model={"quantization": "nf4"}, peft={"type": "lora"})) == {0, 1, 2}
    assert allowed(config(peft={"type": "adalora"})) == ((0, False),)
    assert all(not offload for _, offload in allowed(config(train={"optimizer": {"name": "adamw_8bit"}})))


def test_nf4_holds_4_bits_a_weight() -> None:
    asked = config(model={"quantization": "nf4"}, peft={"type": "lora", "rank": 16})
    found = plan(given(asked, LLAMA_70B, "1xH100"))
    weights = found.asked.memory.states.weights
    assert 38e9 < weights < 42e9


def test_pairs_are_two_answers_in_one_forward_and_have_a_reference_pass() -> None:
    asked = config(method={"name": "dpo"}, train={"micro_batch_size": 2})
    job = given(asked, LLAMA_8B, "8xH100").job(Choice.of(asked, 8))
    assert job.forward.rows == 2 * 2
    names = [phase.name for phase in run_memory(job).phases]
    assert names[:4] == ["load", "reference pass", "forward", "backward"]
    assert "reference pass" not in [
        phase.name for phase in run_memory(given(config(), LLAMA_8B, None).job(Choice.of(config(), 1))).phases
    ]


def test_bytes_of_8_bit_moments() -> None:
    whole = given(config(), LLAMA_8B, "8xH100").job(Choice.of(config(), 8))
    asked = config(train={"optimizer": {"name": "adamw_8bit"}})
    small = given(asked, LLAMA_8B, "8xH100").job(Choice.of(asked, 8))
    saved = run_memory(whole).states.optimizer - run_memory(small).states.optimizer
    assert saved == pytest.approx((6 - 8 / 256) * parameters.from_config(LLAMA_8B).total / 8, rel=1e-6)


def test_the_bucket_is_the_one_that_deepspeed_is_told() -> None:
    asked = config(train={"deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}}})
    choice = Choice.of(asked, 8)
    assert given(asked, LLAMA_8B, "8xH100").job(choice).bucket == 1000
    assert given(config(), LLAMA_8B, "8xH100").job(choice).bucket == BUCKET


# ---- work and time


def test_steps_tokens_and_operations_by_hand() -> None:
    asked = config(train={"max_steps": None, "epochs": 2, "global_batch_size": 10})
    rows = Lengths(
        tasks={"label": TaskLengths(length=100, longest=200, target=25, longest_target=50)},
        rows=45,
        origin="a test",
    )
    work = work_of(asked, rows)
    assert work is not None
    assert work.steps == 2 * 5  # 45 rows are 5 batches of at most 10
    assert work.tokens == 2 * 45 * 100
    job = job_of(
        asked,
        LLAMA_8B,
        parameters.from_config(LLAMA_8B),
        Choice.of(asked, 1),
        rows,
        precision="bf16",
        on_gpu=True,
    )
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    attention = 32 * 4 * 4096 * 100**2  # with a mask, every score is computed
    forward = 2 * weights * 100 + attention
    head = 2 * 4096 * 128256 * 25
    expected = 4 * forward + 3 * head  # forward, backward twice that, and the forward again for checkpointing
    assert sequence_operations(job, source=100, target=25) == pytest.approx(expected, rel=1e-12)
    found = cost(job, work, parse("2xH100"), efficiency=0.5, price=3.0, checkpoints=2)
    assert found.hours == pytest.approx(90 * expected / (2 * 989e12 * 0.5) / 3600)
    assert found.gpu_hours == pytest.approx(2 * (found.hours or 0))
    assert found.price == pytest.approx(3 * (found.gpu_hours or 0))
    total = parameters.from_config(LLAMA_8B).total
    assert (found.checkpoints, found.export) == (3 * 12 * total, 2 * total)


def test_packed_rows_are_counted_in_sequences() -> None:
    asked = config(data={"pack_tokens": 2048}, train={"max_steps": None, "global_batch_size": 4})
    rows = Lengths(
        tasks={"label": TaskLengths(length=100, longest=200, target=25, longest_target=50)},
        rows=2048,
        origin="a test",
    )
    work = work_of(asked, rows)
    assert work is not None
    assert (work.steps, work.source) == (25, 2048)  # 100 sequences of 2,048 tokens, 4 a step


def test_rows_that_nobody_counted_have_no_steps_but_max_steps_does() -> None:
    asked = config(train={"max_steps": None})
    assert work_of(asked, lengths_of_limits(asked, seq2seq=False)) is None
    work = work_of(config(), lengths_of_limits(config(), seq2seq=False))
    assert work is not None
    assert work.steps == 100


def test_t5_operations_are_six_per_weight_and_token() -> None:
    """Short rows, so that attention is small: encoder weights see the source, decoder weights the target."""
    model = MODELS["google/t5-v1_1-xxl"]
    asked = config(train={"gradient_checkpointing": False})
    rows = lengths_of_limits(asked, seq2seq=True)
    job = job_of(
        asked, model, parameters.from_config(model), Choice.of(asked, 1), rows, precision="bf16", on_gpu=True
    )
    layers = {layer.name: layer for layer in parameters.linears(model)}
    each = {name: layer.inputs * layer.outputs for name, layer in layers.items()}
    attention, feed = sum(each[name] for name in "qkvo"), each["wi_0"] + each["wi_1"] + each["wo"]
    encoder = 24 * (attention + feed)
    own = 24 * (attention + feed + each["q"] + each["o"])
    across = 24 * (each["k"] + each["v"])
    expected = 6 * (encoder * 8 + own * 2 + across * 8 + 32128 * 4096 * 2)
    assert sequence_operations(job, source=8, target=2) == pytest.approx(expected, rel=0.01)


def test_the_micro_batch_without_a_plan_is_that_of_a_run() -> None:
    from medray.train.loop.batch_reader import batch_layout

    for sizes in ({"global_batch_size": 64}, {"global_batch_tokens": 4096}, {"global_batch_size": 6}):
        asked = Config.model_validate({"train": sizes})
        for workers in (1, 2, 3):
            assert rows_at_once(asked, workers) == batch_layout(asked.train, workers).micro_batch_size


def test_text_and_json_say_the_same() -> None:
    found = plan(given(config(), LLAMA_8B, "2x8xH100", price=2.0))
    tree, text = as_json(found), "\n".join(lines(found))
    assert tree["workers"] == 16
    assert len(tree["options"]) == 7
    assert tree["cheapest"]["largest_micro_batch"] == found.cheapest.most_rows if found.cheapest else None
    assert tree["cost"]["steps"] == 100
    assert "16 x H100-80GB on 2 nodes" in text
    assert "the config fits" in text
    assert {phase.name for phase in found.asked.memory.phases} <= set(tree["phases"])
