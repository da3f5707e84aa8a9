"""The ledger keeps steps.jsonl and evals.jsonl through kills, holds the stop flag, and serves the console."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medray.tracking import Ledger, TrackingSpec, read_records
from medray.tracking.ledger_line import LedgerLine

OFF = TrackingSpec(False, "", "medray", "run", {}, {}, False)


def record(step: int, loss: float | None = None) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step if loss is None else loss, "tokens": 100, "seconds": 0.5}


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_steps_file_holds_exactly_the_records(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "new" / "run"), OFF)
    ledger.open(resumed_step=0)
    for step in (1, 2, 3):
        ledger.step(record(step))
        assert lines(tmp_path / "new/run/steps.jsonl")[-1] == record(step), (
            "a step is on disk when the call returns"
        )
    assert lines(tmp_path / "new/run/steps.jsonl") == [record(1), record(2), record(3)]


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}', "\x00\x00\x00", '{"step": 3}\n{"st']
)
def test_a_torn_last_line_is_dropped_and_the_file_is_continued(tmp_path: Path, torn: str) -> None:
    steps = tmp_path / "steps.jsonl"
    steps.write_text(json.dumps(record(1)) + "\n" + json.dumps(record(2)) + "\n" + torn, "utf-8")
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=2)
    ledger.step(record(3))
    assert lines(steps) == [record(1), record(2), record(3)]
    assert any("unreadable" in r["text"] for r in ledger.poll(0) if r["kind"] == "message")


def test_torn_line_is_repaired_before_a_step_even_without_open(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(json.dumps(record(1)) + '\n{"step": 2, "lo', "utf-8")
    Ledger(str(tmp_path), OFF).step(record(2))  # Ray started the actor again in the middle of a run
    assert lines(tmp_path / "steps.jsonl") == [record(1), record(2)]


def test_open_cuts_steps_and_evaluations_back_to_the_checkpoint(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    for step in range(1, 8):
        ledger.step(record(step))
    for step in (0, 4, 6):
        ledger.evaluation({"step": step, "metrics": {"loss": 1.0}})
    ledger.open(resumed_step=4)
    assert [r["step"] for r in lines(tmp_path / "steps.jsonl")] == [1, 2, 3, 4]
    assert [r["step"] for r in lines(tmp_path / "evals.jsonl")] == [0, 4]
    ledger.step(record(5, loss=0.1))
    assert lines(tmp_path / "steps.jsonl")[-1] == record(5, loss=0.1)
    ledger.open(resumed_step=0)
    assert lines(tmp_path / "steps.jsonl") == []
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_step_is_never_doubled_and_the_order_of_steps_holds(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    for step in (1, 2, 4, 3, 2):
        ledger.step(record(step))
    ledger.step(record(3, loss=9.0))
    ledger.step(record(5))
    found = lines(tmp_path / "steps.jsonl")
    assert [r["step"] for r in found] == [1, 2, 3, 4, 5]
    assert found[2]["loss"] == 9.0


def test_metrics_of_one_step_are_joined(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    ledger.evaluation({"step": 2, "metrics": {"loss": 1.0, "rougeL": 0.1}})
    ledger.evaluation({"step": 2, "metrics": {"rougeL": 0.2}})
    assert lines(tmp_path / "evals.jsonl") == [{"step": 2, "metrics": {"loss": 1.0, "rougeL": 0.2}}]


def test_read_records_takes_the_last_of_a_doubled_step_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert read_records(path) == []
    path.write_text("\n".join(map(json.dumps, [record(2), record(1), record(2, loss=7.0)])) + "\n", "utf-8")
    assert read_records(path) == [record(1), record(2, loss=7.0)]


@pytest.mark.parametrize("file", ["steps.jsonl", "evals.jsonl"])
def test_a_flush_writes_both_files_to_disk_and_names_the_one_that_fails(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    ledger.evaluation({"step": 1, "metrics": {"loss": 2.0}})
    synced, fsync = list[str](), os.fsync

    def looks(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def fails(descriptor: int) -> None:
        looks(descriptor)
        if synced[-1] == file:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", looks)
    assert ledger.flush() is None
    assert sorted(synced) == ["evals.jsonl", "steps.jsonl"]
    monkeypatch.setattr(os, "fsync", fails)
    assert ledger.flush() == f"{file}: Input/output error"


def test_a_flush_adds_records_that_only_the_previous_ledger_had(tmp_path: Path) -> None:
    """The process died with records in memory; rank 0 hands over all that it has no answer for."""
    steps, evaluations = [record(1), record(2)], [{"step": 2, "metrics": {"loss": 2.0}}]
    first = Ledger(str(tmp_path), OFF)
    first.open(resumed_step=0)
    first.step(steps[0])
    again = Ledger(str(tmp_path), OFF)
    assert again.flush(steps, evaluations) is None
    assert lines(tmp_path / "steps.jsonl") == steps
    assert lines(tmp_path / "evals.jsonl") == evaluations
    assert [one["step"] for one in again.poll(0) if one["kind"] in ("step", "evaluation")] == [2, 2]
    assert again.flush(steps, evaluations) is None
    assert (lines(tmp_path / "steps.jsonl"), lines(tmp_path / "evals.jsonl")) == (steps, evaluations)


class Answers:
    """The ledger's actor: a call is done when its answer is asked for, in `ray.get`."""

    def __init__(self, ledger: Ledger, while_flushing: Callable[[], None]) -> None:
        self._ledger, self._while_flushing = ledger, while_flushing

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any, **named: Any) -> Callable[[], Any]:
            def answer() -> Any:
                if name == "flush":
                    self._while_flushing()
                return getattr(self._ledger, name)(*given, **named)

            return answer

        return SimpleNamespace(remote=remote)


def test_a_record_that_comes_during_a_flush_is_kept_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record's own message may be lost with the ledger, because nothing has confirmed yet that it is on disk."""
    import ray

    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())
    late = iter([2])

    def meanwhile() -> None:
        for step in late:
            line.step(record(step))
            line.evaluation({"step": step, "metrics": {"loss": 1.0}})

    ledger = Ledger(str(tmp_path), OFF)
    line = LedgerLine(Answers(ledger, meanwhile))
    line.step(record(1))
    line.evaluation({"step": 1, "metrics": {"loss": 2.0}})
    line.flush()
    assert [one["step"] for one in lines(tmp_path / "steps.jsonl")] == [1]
    line.flush()
    assert [one["step"] for one in lines(tmp_path / "steps.jsonl")] == [1, 2]
    assert [one["step"] for one in lines(tmp_path / "evals.jsonl")] == [1, 2]


def test_poll_gives_everything_since_an_index_in_order(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    ledger.event({"kind": "phase", "name": "training"})
    ledger.step(record(1))
    ledger.evaluation({"step": 1, "metrics": {"loss": 1.0}})
    first = ledger.poll(0)
    assert [r["kind"] for r in first] == ["phase", "step", "evaluation"]
    assert [r["index"] for r in first] == [1, 2, 3]
    assert first[1]["loss"] == 3.0
    assert all(r["time"] > 0 for r in first)
    ledger.step(record(2))
    assert [(r["kind"], r["step"]) for r in ledger.poll(first[-1]["index"])] == [("step", 2)]
    assert ledger.poll(4) == []
    assert len(ledger.poll(99)) == 4, "an index ahead of the ledger: it was restarted"


def test_stop_flag_keeps_the_first_reason_through_a_restart_of_the_loop(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    assert ledger.stop_reason() is None
    ledger.request_stop("SIGTERM")
    ledger.request_stop("scheduler")
    ledger.open(resumed_step=0)
    assert ledger.stop_reason() == "SIGTERM"


def test_a_file_that_cannot_be_written_is_reported_once_and_does_not_raise(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), OFF)
    ledger.open(resumed_step=0)
    (tmp_path / "steps.jsonl").mkdir()
    ledger.step(record(1))
    ledger.step(record(2))
    said = [r["text"] for r in ledger.poll(0) if r["kind"] == "message"]
    assert len(said) == 1
    assert "steps.jsonl cannot be written" in said[0]
