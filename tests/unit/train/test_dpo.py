"""Preference training through the real loop, against plain torch: losses, the stored and the live reference, resumes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accumulator import Accumulator, gradients
from preference_pairs import (
    LIMITS,
    batch,
    batches,
    is_pair,
    log_probabilities,
    pairs,
    spec,
    started,
    stored,
    token_counts,
    token_sets,
)
from recorder import Recorder
from torchrun import run_loops

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.index.row_index import RangeIndex, check_columns, index_range
from medray.data.index.sources import FileSource
from medray.data.shards.row_values import RowValues
from medray.errors import InputError, RunFailedError
from medray.methods.pair_losses import Answers, pair_losses
from medray.train.driver.data_phase import Encoding, check_first_shard
from medray.train.engine.optimizers import learning_rate
from medray.train.loop import reference as reference_pass
from medray.train.loop import training
from medray.train.loop.interruption import STOPPED
from medray.train.loop.step import train_step
from medray.train.run_folder.claim import claim
from medray.train.worker_plan import WorkerPlan

STEPS = 4
DPOP = {"name": "dpo", "loss": "dpop", "beta": 0.3}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("llama-tiny", {}),
    "packed": ("llama-tiny", {"pack_tokens": 150}),
    "t5": ("t5-tiny", {}),
}


def long(value: str) -> Any:
    """A case that runs in `make test-all` only: another one shows the same way."""
    return pytest.param(value, marks=pytest.mark.long)


def plan(
    folder: Path,
    way: str,
    name: str,
    *,
    micro: int = 4,
    steps: int = STEPS,
    method: dict[str, Any] = DPOP,
    workers: int = 1,
    stage: int = 0,
    **sections: Any,
) -> WorkerPlan:
    preset, data = WAYS[way]
    sets = token_sets(folder, method, "seq2seq" if preset == "t5-tiny" else "causal")
    made = tiny.plan(
        folder / name,
        sets["train"],
        preset,
        workers=workers,
        micro=micro,
        max_steps=steps,
        validation=sets["validation"],
        data=LIMITS | data,
        method=method | {"alpha": 0.5},
        train={"zero_stage": stage},
        eval={"at_start": True, "metrics": [], "batch_size": 3, "every_steps": 2},
        **sections,
    )
    return replace(made, reference=f"{preset}-first-weights")


def run(made: WorkerPlan, **recorder: Any) -> Recorder:
    seen = Recorder(**recorder)
    training.run(made, seen)
    return seen


def wanted(
    made: WorkerPlan, model: Any, first: Any, rows: Sequence[dict[str, Any]]
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch and its logged means, one answer at a time, with a frozen copy of the first weights."""
    seq2seq, options = made.train.spec.architecture == "seq2seq", made.method.options  # type: ignore[attr-defined]
    rows = [row for row in rows if is_pair(row)]
    policy = [torch.stack(log_probabilities(model, row, seq2seq=seq2seq)) for row in rows]
    with torch.no_grad():
        known = [torch.stack(log_probabilities(first, row, seq2seq=seq2seq)) for row in rows]
    tokens = [torch.tensor(token_counts(row, seq2seq=seq2seq)) for row in rows]
    answers, frozen, counts = (Answers(*torch.stack(found).T) for found in (policy, known, tokens))
    loss = pair_losses(answers, frozen, counts, options).mean()
    answers = Answers(answers.chosen.detach(), answers.rejected.detach())
    gain = answers.chosen - frozen.chosen
    margin = gain - (answers.rejected - frozen.rejected)
    return loss, {
        "chosen_over_reference": float(gain.mean()),
        "penalized_pairs": float((gain < 1e-4 * frozen.chosen).float().mean()),
        "preference_accuracy": float((margin > 0).float().mean()),
        "reward_margin": float(options.beta * margin.mean()),
        "logp_chosen": float(answers.chosen.mean()),
        "logp_rejected": float(answers.rejected.mean()),
    }


def wanted_steps(made: WorkerPlan) -> list[tuple[float, dict[str, float]]]:
    train, model, first = made.config.train, started(made).train(), started(made).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=train.optimizer.weight_decay)
    found = []
    for step, rows in enumerate(batches(made)):
        loss, means = wanted(made, model, first, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, made.total_steps, train.optimizer.lr, train.scheduler)
        optimizer.step()
        found.append((float(loss.detach()), means))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_run_has_the_loss_of_plain_torch_with_a_frozen_copy(tmp_path: Path, way: str) -> None:
    made = plan(tmp_path, way, "whole", micro=8)
    whole, halves = run(made), run(plan(tmp_path, way, "halves", micro=4))
    expected = wanted_steps(made)
    assert expected[0][0] == pytest.approx(torch.log(torch.tensor(2.0)).item())  # the policy is the reference
    assert expected[-1][0] < expected[0][0]
    for steps in (whole.steps, halves.steps):
        for record, (loss, means) in zip(steps, expected, strict=True):
            assert record["loss"] == pytest.approx(loss, abs=2e-4)
            assert record["loss/preference"] == pytest.approx(record["loss"])
            if record["step"] > 1:  # at first all margins are rounding
                assert {name: record[name] for name in means} == pytest.approx(means, abs=5e-3)
    begun = whole.evaluations[0]["metrics"]
    assert begun["loss"] == pytest.approx(begun["loss_preference"]) == pytest.approx(0.693147, abs=1e-5)
    assert whole.evaluations[-1]["metrics"]["preference_accuracy"] > 0.5


@pytest.mark.parametrize("loss", ["sigmoid", "orpo", *(long(loss) for loss in ("ipo", "hinge", "simpo"))])
def test_each_loss_trains(tmp_path: Path, loss: str) -> None:
    more = {"nll_weight": 0.5} if loss == "sigmoid" else {}
    seen = run(
        plan(tmp_path, "causal", loss, steps=6, method={"name": "dpo", "loss": loss, "beta": 0.3} | more)
    )
    assert ("loss/label" in seen.steps[0]) == (loss in ("sigmoid", "orpo"))
    assert ("chosen_over_reference" in seen.steps[0]) == (loss not in ("simpo", "orpo"))
    first, last = seen.evaluations[0]["metrics"], seen.evaluations[-1]["metrics"]
    assert last["loss"] < first["loss"]
    assert last["reward_margin"] > first["reward_margin"]
    weight = {"sigmoid": 0.5, "orpo": 1.0}.get(loss, 0.0)
    parts = last["loss_preference"] + weight * last.get("loss_label", 0.0)
    assert last["loss"] == pytest.approx(parts)


@pytest.mark.parametrize("way", ["causal", long("packed")])
def test_lambda_zero_is_dpo_bit_for_bit(tmp_path: Path, way: str) -> None:
    dpop = run(plan(tmp_path, way, "dpop", method=DPOP | {"dpop_lambda": 0.0}))
    dpo = run(plan(tmp_path, way, "dpo", method={"name": "dpo", "beta": 0.3}))
    assert [one["loss"] for one in dpop.steps] == [one["loss"] for one in dpo.steps]
    assert dpop.evaluations[-1]["metrics"]["loss"] == dpo.evaluations[-1]["metrics"]["loss"]


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("causal", {"type": "lora", "rank": 4, "dropout": 0.1}),
    "packed lora": ("packed", {"type": "lora", "rank": 4}),
    "ia3": ("t5", {"type": "ia3"}),
    "prefix": ("causal", {"type": "prefix", "virtual_tokens": 4}),
    "prompt": ("causal", {"type": "prompt", "virtual_tokens": 4}),
    "multitask_prompt": ("t5", {"type": "multitask_prompt", "virtual_tokens": 4}),
}


@pytest.mark.parametrize(
    "adapter", ["lora", "prompt", *(long(name) for name in ADAPTERS if name not in ("lora", "prompt"))]
)
def test_the_stored_reference_is_the_live_one(tmp_path: Path, adapter: str) -> None:
    way, peft = ADAPTERS[adapter]
    once = run(plan(tmp_path, way, "stored", peft=peft))
    live = run(plan(tmp_path, way, "live", peft=peft, method=DPOP | {"reference": "live"}))
    for one, other in zip(once.steps, live.steps, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert once.evaluations[-1]["metrics"] == pytest.approx(
        live.evaluations[-1]["metrics"], rel=1e-4, abs=1e-5
    )
    changes = peft["type"] in (
        "prompt",
        "multitask_prompt",
        "prefix",
    )  # a fresh one already changes the output
    assert (abs(once.steps[0]["chosen_over_reference"]) > 1e-3) == changes


def test_the_reference_is_computed_once_and_again_if_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[str, int]] = []
    real = reference_pass._compute

    def counted(plan: Any, built: Any, tokens: Any, shard: int, interruption: Any) -> Any:
        computed.append((Path(tokens.folder).name, shard))
        return real(plan, built, tokens, shard, interruption)

    monkeypatch.setattr(reference_pass, "_compute", counted)
    calm = run(plan(tmp_path, "causal", "calm"))
    assert sorted(computed) == [
        (f"causal-{split}", shard) for split in ("train", "validation") for shard in range(3)
    ]
    computed.clear()
    first = run(plan(tmp_path, "causal", "cut"), stop_after=3)
    assert computed == []  # found again by another run
    values = Path(plan(tmp_path, "causal", "cut").train.folder) / "values"
    sorted((values / "llama-tiny-first-weights").iterdir())[1].unlink()
    second = run(plan(tmp_path, "causal", "cut"))
    assert computed == [("causal-train", 1)]
    assert second.resumed == [3]
    assert [one["loss"] for one in first.steps + second.steps] == [one["loss"] for one in calm.steps]
    assert second.evaluations[-1]["metrics"] == calm.evaluations[-1]["metrics"]
    shutil.rmtree(values)
    with pytest.raises(RunFailedError, match="another run removed it"):
        RowValues(str(values.parent), "gone", ("label",)).of(0)


def test_two_ranks_under_every_stage_have_the_losses_of_one(tmp_path: Path) -> None:
    """The reference is computed under that stage too; full tuning and an adapter, packed and padded, stored and live."""
    lora, live = {"type": "lora", "rank": 4}, DPOP | {"reference": "live"}
    kinds: dict[str, dict[str, Any]] = {
        "full": {"way": "causal", "stage": 1},
        "t5": {"way": "t5", "stage": 3},
        "lora": {"way": "packed", "stage": 2, "peft": lora},
        "live": {"way": "causal", "stage": 3, "peft": lora, "method": live},
        "dpo": {"way": "causal", "stage": 2, "method": {"name": "dpo", "beta": 0.3}},
        "lambda-0": {"way": "causal", "stage": 2, "method": DPOP | {"dpop_lambda": 0.0}},
    }
    made, alone = {}, {}
    for name, kind in kinds.items():
        if name not in ("dpo", "lambda-0"):  # these two are compared with each other
            alone[name] = run(plan(tmp_path, name=f"{name}-alone", **kind | {"stage": 0}))
        shutil.rmtree(Path(plan(tmp_path, kind["way"], name).train.folder) / "values", ignore_errors=True)
        made[name] = plan(tmp_path, name=name, micro=2, workers=2, **kind)
    seen = run_loops(tmp_path, made, processes=2)
    for name in alone:
        losses = [step["loss"] for step in seen[name]["steps"]]
        assert losses == pytest.approx([step["loss"] for step in alone[name].steps], rel=1e-4), name
        assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert [step["loss"] for step in seen["dpo"]["steps"]] == [
        step["loss"] for step in seen["lambda-0"]["steps"]
    ]


def test_a_stop_is_heard_within_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shards before it are kept, and nothing of the one that was being computed."""
    calm = run(plan(tmp_path, "causal", "calm"))
    values = Path(plan(tmp_path, "causal", "calm").train.folder) / "values"
    shutil.rmtree(values)
    asked = 0

    class Stopping(Recorder):
        def stop_requested(self) -> bool:
            nonlocal asked
            asked += 1
            return asked == 5  # a shard of 7 rows has three forwards of 3 pairs

    stopped = Stopping()
    assert training.run(plan(tmp_path, "causal", "run"), stopped).status == STOPPED
    assert stopped.steps == []
    assert len(list(values.rglob("*.parquet"))) == 1
    again = run(plan(tmp_path, "causal", "run"))
    assert [one["loss"] for one in again.steps] == [one["loss"] for one in calm.steps]


def test_a_short_run_computes_the_shards_that_it_reads(tmp_path: Path) -> None:
    made = plan(tmp_path, "causal", "run", steps=1)
    run(made)
    read = {int(shard) for shard in made.train.plan(made.config).batch(0).shards}
    store = made.stored_reference(made.train)
    assert store is not None
    assert {shard for shard in range(3) if store.has(shard)} == read
    assert len(read) < 3


@pytest.mark.parametrize("way", ["packed", long("causal"), long("t5")])
def test_ranks_share_the_pairs_of_a_batch(tmp_path: Path, way: str) -> None:
    """Loss and gradients of one rank with one micro-batch, and of two and three ranks that accumulate."""
    made = plan(tmp_path, way, "run", micro=8)
    store = made.stored_reference(made.train)
    assert store is not None
    for shard in made.train.index.shards:  # not those of the model, so that the losses of pairs differ
        store.write(shard.index, -torch.rand(2, shard.rows).mul(40).numpy())
    model, found = started(made), {}
    for ranks, micro in ((1, 8), (2, 4), (3, 1)):
        losses = []
        for rank in range(ranks):
            prepared = batch(made, rank, ranks, micro)
            engine = Accumulator(model, rank)
            record = train_step(engine, prepared, made.method, lr=0, seed=0, step=0, seq2seq=way == "t5")
            losses.append(record["loss"])
        found[ranks] = sum(losses), gradients(model)
    loss, wanted_gradients = found[1]
    for ranks in (2, 3):
        assert found[ranks][0] == pytest.approx(loss, rel=1e-5)
        for name, gradient in found[ranks][1].items():
            torch.testing.assert_close(gradient, wanted_gradients[name], rtol=2e-4, atol=2e-5, msg=name)


def test_rows_without_a_pair_have_no_numbers(tmp_path: Path) -> None:
    made = plan(tmp_path, "causal", "run")
    run(made)
    store = made.stored_reference(made.train)
    assert store is not None
    for shard, rows in stored(made.train).items():
        known = ~torch.from_numpy(store.of(shard).copy()).isnan().any(dim=0)
        assert known.tolist() == [bool(row["label.input_ids"]) for row in rows]


def test_data_without_a_pair_are_refused_before_a_worker_starts(tmp_path: Path) -> None:
    class Watch:
        def phase(self, name: str, detail: str = "") -> None: ...
        def beat(self) -> None: ...

    made = plan(tmp_path, "causal", "run")
    check_first_shard(made.config, Encoding({"train": made.train}), Watch())
    apart = [
        {
            "id": str(n),
            "prompt": "cough",
            "chosen": "rash " * (1 + 60 * (n % 2)),
            "rejected": "pain " * (61 - 60 * (n % 2)),
        }
        for n in range(6)
    ]
    method = spec_of(made.config.method)
    tokens = tiny.token_set(
        tmp_path, apart, name="apart", spec=spec(DPOP, "causal"), method=method, shard_rows=6
    )
    with pytest.raises(InputError, match="none of 6 rows has all of label, rejected") as caught:
        check_first_shard(made.config, Encoding({"train": tokens}), Watch())
    assert caught.value.key == "data.max_label_tokens"


def test_equal_and_empty_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    """Sampled answers are often equal, so they are no bad rows, which would stop a run."""
    same = {"id": "same", "prompt": "cough", "chosen": "rash", "rejected": "rash "}
    empty = {"id": "empty", "prompt": "cough", "chosen": "rash", "rejected": ""}
    source = FileSource(
        path=str(tiny.write_jsonl(tmp_path / "a.jsonl", [*pairs(3), same, empty, same | {"id": "2"}])),
        format="jsonl",
    )
    method = spec_of(Config.model_validate({"method": DPOP}).method)
    found = tiny.index(source, 8, method)
    assert found.rows == 3
    assert found.rejects == {}
    assert found.dropped == {
        "the chosen and the rejected answer are the same": 2,
        "an answer of the pair is empty": 1,
    }
    part = index_range(source, 0, None, 8, method=method)
    assert RangeIndex.from_bytes(part.to_bytes()).left_out == part.left_out


def test_rows_without_rejected_answers_are_refused_by_name(tmp_path: Path) -> None:
    method = spec_of(Config.model_validate({"method": DPOP}).method)
    rows = [{"id": "1", "prompt": "cough", "chosen": "rash"}]
    source = FileSource(path=str(tiny.write_jsonl(tmp_path / "a.jsonl", rows)), format="jsonl")
    seen = set(index_range(source, 0, None, 8, method=method).columns_seen)
    with pytest.raises(
        InputError, match=r"no row of .* has a column 'rejected', and method\.name: dpo compares it"
    ):
        check_columns(source, seen, "data.train", method)
    check_columns(source, seen | {"rejected"}, "data.train", method)


def test_a_run_whose_first_weights_have_changed_is_refused(tmp_path: Path) -> None:
    made, said = plan(tmp_path, "causal", "run"), list[str]()
    claim(made.config, "tokens", "fp32", 1, said.append, reference="first")
    run(made, stop_after=2)
    claim(made.config, "tokens", "fp32", 1, said.append, reference="first")
    with pytest.raises(InputError, match="have changed since"):
        claim(made.config, "tokens", "fp32", 1, said.append, reference="second")
