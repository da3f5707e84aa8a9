"""A method is two files and two registrations: a made-up pairwise one goes from records to a checkpoint and an export.

Its term is not linear in the tokens: -log sigmoid of the difference of two answers' log-probabilities. The wanted
losses are computed one answer at a time in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import margin_loss
import margin_spec
import pytest
import tiny
import torch
from accumulator import Accumulator, gradients
from preference_pairs import (
    COUNT,
    LIMITS,
    LONG,
    batch,
    batches,
    is_pair,
    log_probabilities,
    pairs,
    started,
    stored,
    token_sets,
)
from recorder import Recorder
from thread_ranks import Ranks

from medray import methods, storage
from medray.config import Config, method_specs
from medray.config.checks.method import check_method, notes
from medray.data.index.row_index import index_range
from medray.data.index.sources import FileSource
from medray.data.index.split_checks import check_split
from medray.data.inspect.inspection import inspect
from medray.evaluate.loss_sums import PLAIN
from medray.evaluate.validation import Validation
from medray.models.export.usage import read_usage
from medray.train.driver.data_phase import Encoding, check_first_shard
from medray.train.engine.optimizers import learning_rate
from medray.train.loop import live_evaluation, training
from medray.train.loop.batch_reader import BatchLayout, BatchReader
from medray.train.loop.step import train_step
from medray.train.worker_plan import WorkerPlan

STEPS = 4
METHOD = {"name": margin_spec.NAME}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("llama-tiny", {}),
    "packed": ("llama-tiny", {"pack_tokens": 150}),
    "t5": ("t5-tiny", {}),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(method_specs.SPECS, margin_spec.NAME, margin_spec.margin_spec)
    monkeypatch.setitem(methods.LOSSES, margin_spec.NAME, margin_loss.MarginLoss)


def plan(folder: Path, way: str, name: str, *, micro: int, steps: int = STEPS) -> WorkerPlan:
    preset, data = WAYS[way]
    sets = token_sets(folder, METHOD, "seq2seq" if preset == "t5-tiny" else "causal")
    return tiny.plan(
        folder / name,
        sets["train"],
        preset,
        workers=1,
        micro=micro,
        max_steps=steps,
        validation=sets["validation"],
        data=LIMITS | data,
        method=METHOD | {"alpha": 0.5},
        train={"zero_stage": 0},
        eval={"at_start": True, "metrics": [], "batch_size": 3, "every_steps": 2},
    )


def wanted(model: Any, rows: Sequence[dict[str, Any]], *, seq2seq: bool) -> tuple[torch.Tensor, float]:
    """(loss, share of pairs in which the label is more likely), one answer at a time."""
    losses, right = [], 0
    for row in filter(is_pair, rows):
        logs = log_probabilities(model, row, seq2seq=seq2seq)
        margin = logs[0] - logs[1]
        losses.append(torch.log1p(torch.exp(-margin_loss.BETA * margin)))
        right += bool(margin > 0)
    return sum(losses) / len(losses), right / len(losses)  # type: ignore[return-value]


def wanted_steps(made: WorkerPlan) -> list[dict[str, float]]:
    """The losses of a run of plain torch on the same batches."""
    train = made.config.train
    model = started(made).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=train.optimizer.weight_decay)
    found = []
    for step, rows in enumerate(batches(made)):
        loss, accuracy = wanted(model, rows, seq2seq=made.train.spec.architecture == "seq2seq")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, made.total_steps, train.optimizer.lr, train.scheduler)
        optimizer.step()
        found.append({"loss": float(loss.detach()), "accuracy": accuracy})
    return found


def run(made: WorkerPlan, **recorder: Any) -> Recorder:
    seen = Recorder(**recorder)
    training.run(made, seen)
    return seen


def test_its_config_is_checked_as_any_other() -> None:
    made = Config.model_validate({"method": METHOD})
    check_method(made)
    assert notes(made) == ()
    with pytest.raises(ValueError, match="'sft', 'distill' or 'dpo'"):
        Config.model_validate({"method": {"name": "other"}})


def test_rows_are_those_that_have_both_answers(tmp_path: Path) -> None:
    made = Config.model_validate({"method": METHOD})
    method = method_specs.spec_of(made.method)
    again = pairs(3)[1] | {"id": "again", "chosen": "none"}
    source = FileSource(path=str(tiny.write_jsonl(tmp_path / "a.jsonl", [*pairs(3), again])), format="jsonl")
    index = tiny.index(source, 8, method)
    assert (index.rows, index.duplicates) == (4, 1)  # the same prompt is the same row
    check_split(made, "train", index, tmp_path)
    part = index_range(source, 0, None, 8)
    assert {reject["reason"] for reject in part.rejects} == {
        "a preference pair, which method.name: sft does not train on"
    }
    plain = FileSource(path=str(tiny.write_jsonl(tmp_path / "b.jsonl", tiny.rows(3))), format="jsonl")
    part = index_range(plain, 0, None, 8, method=method)
    assert {reject["reason"] for reject in part.rejects} == {
        "no 'rejected', and method.name: margin compares it"
    }


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_both_answers_follow_one_prompt_and_are_never_cut(tmp_path: Path, architecture: str) -> None:
    tokens = token_sets(tmp_path, METHOD, architecture)["train"]
    assert tokens.spec.tasks == ("label", "rejected")
    store = tokens.store()
    for number, place in enumerate(tokens.rows()):
        asked = [store.prompt(*place, task).tolist() for task in tokens.spec.tasks]
        has = bool(store.counts(place[0], "rejected", "loss_tokens")[place[1]])
        assert has == (number != LONG)
        assert bool(store.counts(place[0], "rejected", "cut")[place[1]]) == (number == LONG)
        assert asked[0] == asked[1] or not has


def test_inspection_and_the_first_shard_know_both_answers(tmp_path: Path) -> None:
    made = plan(tmp_path, "causal", "run", micro=4)
    found = inspect(made.config, {"train": made.train})
    assert [one.task for one in found.tasks] == ["label", "rejected"]
    assert [one.without for one in found.tasks] == [0, 1]
    (said,) = (one.said for one in found.checks if one.name == "labels")
    assert said == f"1 of {COUNT} train rows have no rejected to learn; check the columns in data.columns"
    reader = BatchReader(
        made.train.store(),
        made.train.plan(made.config),
        made.method,
        BatchLayout(4, 8),
        rank=0,
        world_size=1,
        architecture="causal",
        pad_id=0,
        packed=False,
    )
    epoch = made.train.plan(made.config).steps(1)
    parts = [part for step in range(epoch) for one in reader.prepare(step).micro for part in one]
    (planned,) = (one for one in found.padding if one.name == "plan")
    assert planned.computed == sum(part.input_ids.size for part in parts)

    class Watch:
        def phase(self, name: str, detail: str = "") -> None: ...
        def beat(self) -> None: ...

    check_first_shard(made.config, Encoding({"train": made.train}), Watch())


@pytest.mark.parametrize("way", WAYS)
def test_a_run_has_the_loss_of_plain_torch_however_it_accumulates(tmp_path: Path, way: str) -> None:
    made = plan(tmp_path, way, "whole", micro=8)
    whole, halves = run(made), run(plan(tmp_path, way, "halves", micro=4))
    expected = wanted_steps(made)
    assert expected[-1]["loss"] < expected[0]["loss"]
    for steps in (whole.steps, halves.steps):
        for record, one in zip(steps, expected, strict=True):
            assert record["loss"] == pytest.approx(one["loss"], abs=1e-4)
            assert record["loss/pair"] == pytest.approx(record["loss"])
            assert record["accuracy"] == pytest.approx(one["accuracy"])
    assert made.validation is not None
    rows = [row for _, shard in sorted(stored(made.validation).items()) for row in shard]
    with torch.no_grad():
        loss, accuracy = wanted(started(made).eval(), rows, seq2seq=way == "t5")
    assert whole.evaluations[0]["metrics"] == pytest.approx(
        {"loss": float(loss), "loss_pair": float(loss), "accuracy": accuracy}, abs=1e-5
    )
    usage = read_usage(storage.at(made.run_folder) / "export")
    assert usage is not None
    assert list(usage.tasks) == ["label"]  # nobody asks a model for a rejected answer


def test_it_resumes_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    calm = run(plan(tmp_path, "causal", "calm", micro=4))
    first = run(plan(tmp_path, "causal", "cut", micro=4), stop_after=3)
    second = run(plan(tmp_path, "causal", "cut", micro=4))
    assert second.resumed == [3]
    assert [one["loss"] for one in first.steps + second.steps] == [one["loss"] for one in calm.steps]
    assert second.evaluations[-1]["metrics"] == calm.evaluations[-1]["metrics"]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_share_the_pairs_of_a_batch(tmp_path: Path, way: str) -> None:
    """Loss and gradients of one rank with one micro-batch, and of two and three ranks that accumulate."""
    made = plan(tmp_path, way, "run", micro=8)
    seq2seq, found = way == "t5", {}
    model = started(made)
    for ranks, micro in ((1, 8), (2, 4), (3, 1)):
        records = []
        for rank in range(ranks):
            prepared = batch(made, rank, ranks, micro)
            engine = Accumulator(model, rank)
            records.append(train_step(engine, prepared, made.method, lr=0, seed=0, step=0, seq2seq=seq2seq))
        found[ranks] = sum(record["loss"] for record in records), gradients(model)
    loss, wanted_gradients = found[1]
    assert loss > 0.1
    for ranks in (2, 3):
        assert found[ranks][0] == pytest.approx(loss, rel=1e-5)
        for name, gradient in found[ranks][1].items():
            torch.testing.assert_close(gradient, wanted_gradients[name], rtol=2e-4, atol=2e-6, msg=name)


def test_a_micro_batch_without_a_pair_back_propagates_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path, "packed", "run", micro=8)
    model = started(made)
    prepared = batch(made, 0, 1, 1)
    for row in range(len(prepared.micro)):
        (micro,) = prepared.micro[row]
        alone: Any = replace(micro, labels=micro.labels * 0 - 100)
        record = train_step(
            Accumulator(model, 0),
            replace(prepared, micro=[[alone]]),
            made.method,
            lr=0,
            seed=0,
            step=0,
            seq2seq=False,
        )
        assert record["loss"] == 0.0
        assert all(not gradient.any() for gradient in gradients(model).values())


def test_two_ranks_evaluate_each_pair_once(tmp_path: Path) -> None:
    made = plan(tmp_path, "causal", "run", micro=4)
    assert made.validation is not None
    rows = Validation(made.validation.store(), tuple(made.validation.rows()), "causal", 0, 3)
    model, found = started(made), []
    for count in (1, 2):
        ranks = Ranks(count)
        for engine in ranks.engines:
            engine.model = model
        found += ranks.run(lambda engine: live_evaluation.losses(rows, engine, made.method, PLAIN))
    assert found[0].keys() == {"loss", "loss_pair", "accuracy"}
    for one in found[1:]:
        assert one == pytest.approx(found[0], rel=1e-6)
