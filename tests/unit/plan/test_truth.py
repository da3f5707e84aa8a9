"""The plan's bytes against the tensors that torch and DeepSpeed really hold for tiny models, within 10 %."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from memory_census import BUCKET, Case, build, evaluation_peak, forward, peaks
from torchrun import KEPT, measure

from medray.config.peft import PeftConfig
from medray.methods import cross_entropy
from medray.plan import adapters, jobs, parameters
from medray.plan.activations import Forward, Training, kept, without_gradients
from medray.plan.phases import Job, Phase, run_memory

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 200, "tie_word_embeddings": False,
}  # fmt: skip
GEMMA = LLAMA | {"model_type": "gemma", "head_dim": 16, "tie_word_embeddings": True}
GEMMA2, GEMMA3 = GEMMA | {"model_type": "gemma2"}, GEMMA | {"model_type": "gemma3_text"}
QWEN3, PHI3 = (
    LLAMA | {"model_type": "qwen3", "head_dim": 16},
    LLAMA | {"model_type": "phi3", "pad_token_id": 0},
)
T5: dict[str, Any] = {
    "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "vocab_size": 200, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
    "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
WITHIN = 0.1


def training(case: Case) -> Training:
    adapted = None
    if case.rank:
        adapted = frozenset(layer.name for layer in parameters.linears(case.model))
    return Training(
        weight_bytes=2 if case.precision == "bf16" else 4,
        on_gpu=False,
        checkpointing=case.checkpointing,
        adapted=adapted,
        rank=case.rank,
    )


def longest(case: Case) -> Forward:
    return Forward(rows=case.rows, length=case.length, targets=case.targets, masked=case.padded)


def planned(case: Case, workers: int) -> dict[str, Phase]:
    count = parameters.from_config(case.model)
    adapter = adapters.trained(case.model, PeftConfig(type="lora", rank=case.rank)) if case.rank else 0
    largest = case.rank * 160 if case.rank else count.largest_layer
    job = Job(
        model=case.model,
        total=count.total,
        trained=adapter or count.total,
        adapter=adapter,
        largest_layer=count.largest_layer,
        largest_trained=largest,
        training=training(case),
        forward=longest(case),
        stage=case.stage or 0,
        workers=workers,
        offload=case.offload,
        plain_torch=case.stage is None,
        accumulates=False,
        chunk=case.chunk,
        bucket=BUCKET,
    )
    return {phase.name: phase for phase in run_memory(job).phases}


CASES = {
    **{f"llama-{stage}": Case(model=LLAMA, stage=stage) for stage in range(4)},
    **{f"llama-bf16-{stage}": Case(model=LLAMA, stage=stage, precision="bf16") for stage in range(4)},
    **{f"t5-{stage}": Case(model=T5, stage=stage) for stage in range(4)},
    **{f"t5-bf16-{stage}": Case(model=T5, stage=stage, precision="bf16") for stage in (2, 3)},
    **{f"lora-{stage}": Case(model=LLAMA, stage=stage, precision="bf16", rank=4) for stage in (2, 3)},
    **{f"offload-{stage}": Case(model=T5, stage=stage, precision="bf16", offload=True) for stage in (1, 2, 3)},
    "checkpointing": Case(model=LLAMA, stage=2, precision="bf16", checkpointing=True),
}  # fmt: skip


QUICK = ("llama-bf16-0", "llama-1", "t5-bf16-2", "t5-3", "lora-3", "offload-2")


@pytest.fixture(scope="module")
def sizes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, int]]:
    """The sizes of all cases that this session runs: two ranks take seconds to start, and a case half a second."""
    items: list[Any] = list(request.session.items)
    asked = {
        item.callspec.params["name"]
        for item in items
        if item.path == Path(__file__) and "sizes" in getattr(item, "fixturenames", ())
    }
    return measure(tmp_path_factory.mktemp("sizes"), {name: CASES[name] for name in CASES if name in asked})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in CASES]
)
def test_two_ranks_hold_what_the_plan_says(name: str, sizes: dict[str, dict[str, int]]) -> None:
    case, found = CASES[name], sizes[name]
    phases = planned(case, KEPT)
    resting, later = phases["save"], phases["later steps"]
    alive = kept(case.model, longest(case), training(case), chunk=case.chunk)
    assert found["saved"] == pytest.approx(alive.activations + alive.logits, rel=WITHIN)
    host = later.host
    assert found["resting"] == pytest.approx(resting.device + host, rel=WITHIN)
    gradients = later.parts["gradients"] - resting.parts.get("gradients", 0)
    after = resting.device + host + gradients
    # Of stages 1 and 2, the bucket lives on while a gradient is a view of it.
    assert found["differentiated"] == pytest.approx(after, rel=WITHIN, abs=2 * 4 * BUCKET)
    if not case.offload:
        assert found["weights"] == pytest.approx(resting.parts["weights"], rel=WITHIN)
        assert found["optimizer"] == pytest.approx(resting.parts["optimizer"], rel=WITHIN)


SAVED = {
    "same lengths": Case(model=LLAMA, padded=False),
    "gemma": Case(model=GEMMA),
    "gemma in 16 bits": Case(model=GEMMA, precision="bf16"),
    "gemma 2": Case(model=GEMMA2),
    "gemma 2 in 16 bits": Case(model=GEMMA2, precision="bf16", padded=False),
    "gemma 3": Case(model=GEMMA3),
    "gemma 3 in 16 bits": Case(model=GEMMA3, precision="bf16"),
    "qwen 3": Case(model=QWEN3),
    "qwen 3 in 16 bits": Case(model=QWEN3, precision="bf16"),
    "phi 3": Case(model=PHI3),
    "phi 3 without groups": Case(model=PHI3 | {"num_key_value_heads": 4}, precision="bf16"),
    "phi 3 lora": Case(model=PHI3, rank=4, padded=False),
    "lora": Case(model=LLAMA, rank=4),
    "chunked loss": Case(model=LLAMA, chunk=32),
    "t5 with dropout": Case(model=T5 | {"dropout_rate": 0.1}),
    "t5 with relu": Case(model=T5 | {"feed_forward_proj": "relu"}),
    "t5 lora": Case(model=T5, rank=4),
    "t5 checkpointing": Case(model=T5, checkpointing=True, targets=64),
    "t5 chunked loss": Case(model=T5, chunk=32),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVED)
def test_a_forward_pass_keeps_what_the_plan_says(name: str) -> None:
    case = SAVED[name]
    model = build(case)
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    _, saved = forward(case, model, own)
    alive = kept(case.model, longest(case), training(case), chunk=case.chunk)
    assert saved == pytest.approx(alive.activations + alive.logits, rel=WITHIN)


PEAKS = {
    "llama": Case(model=LLAMA),
    "llama checkpointing": Case(model=LLAMA, checkpointing=True),
    "t5": Case(model=T5),
    "t5 checkpointing": Case(model=T5, checkpointing=True),
    "large vocabulary": Case(model=LLAMA | {"vocab_size": 4000}),
    "gemma 2": Case(model=GEMMA2),
    "gemma 2 large vocabulary": Case(model=GEMMA2 | {"vocab_size": 4000}),
    "phi 3": Case(model=PHI3),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEAKS)
def test_the_peak_of_a_step_is_where_the_plan_says(name: str) -> None:
    case = PEAKS[name]
    found, phases = peaks(case), planned(case, 1)
    assert phases["backward"].device == pytest.approx(max(found.values()), rel=WITHIN)
    if not case.checkpointing:
        assert phases["forward"].device == pytest.approx(found["forward"], rel=WITHIN)


EVALUATIONS = {
    "llama": Case(model=LLAMA),
    "long rows": Case(model=LLAMA, length=512, targets=64),
    "t5": Case(model=T5, length=256, targets=64),
    "gemma 2": Case(model=GEMMA2, length=256),
    "phi 3": Case(model=PHI3, length=256),
    "large vocabulary": Case(model=LLAMA | {"vocab_size": 4000}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_needs_about_what_the_plan_says(name: str) -> None:
    case = EVALUATIONS[name]
    assert without_gradients(case.model, longest(case), 4) == pytest.approx(evaluation_peak(case), rel=0.15)


def test_the_constants_of_the_chunked_loss_are_those_of_the_loss() -> None:
    assert (jobs.CHUNK_LOGITS, jobs.CHUNKS_THAT_PAY) == (
        cross_entropy.CHUNK_LOGITS,
        cross_entropy.CHUNKS_THAT_PAY,
    )


def test_a_large_loss_is_chunked_where_training_would_chunk_it() -> None:
    chosen = cross_entropy.chosen_chunk(None, 200)
    for rows in (1, 10_000):
        positions = Forward(rows=rows, length=96, targets=96)
        expected = chosen.chunk_tokens if chosen.at_head(positions.logits) is not None else None
        assert jobs.chunk_of(None, LLAMA, positions) == expected
