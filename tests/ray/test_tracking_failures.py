"""The ledger's process is killed repeatedly: senders never wait for it, and no step is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from clusters import Cluster
from commands import until

from medray.tracking import TrackingSpec, ledger
from medray.tracking.ledger_line import LedgerLine

OFF = TrackingSpec(False, "", "medray", "run", {}, {}, False)


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "tokens": 100, "seconds": 0.5}


@pytest.fixture
def actor(connected: Cluster, tmp_path: Path) -> Iterator[Any]:
    handle = ledger.start(str(tmp_path), OFF)
    ray.get(handle.stop_reason.remote())
    yield handle
    ray.kill(handle)


def kill(handle: Any) -> None:
    """The process of this ledger: other tests' may live on for as long as somebody holds a handle."""
    process = psutil.Process(ray.get(handle.__ray_call__.remote(lambda ledger: os.getpid())))
    process.kill()
    process.wait()


def try_flush(line: LedgerLine) -> bool:
    try:
        line.flush()
    except OSError:
        return False
    return True


def test_the_step_path_does_not_wait_for_a_ledger_that_is_held(
    connected: Cluster, actor: Any, tmp_path: Path
) -> None:
    """The ledger answers nothing until the steps have been sent, however long that takes."""
    line, go = LedgerLine(actor), tmp_path / "go"
    line.open(0)

    def stands_still(ledger: Any) -> None:
        while not go.exists():
            time.sleep(0.05)

    held = actor.__ray_call__.remote(stands_still)
    for step in range(1, 61):
        line.step(record(step))
        line.event({"kind": "message", "text": "x"})
        assert not line.stop_requested()
    line.evaluation({"step": 60, "metrics": {"loss": 1.0}})
    assert not ray.wait([held], timeout=0)[0]
    go.touch()
    until(lambda: try_flush(line), "an answer of the ledger")
    lines = [json.loads(text) for text in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert lines == [record(number) for number in range(1, 61)]


def test_no_step_is_lost_when_the_ledger_is_killed(connected: Cluster, actor: Any, tmp_path: Path) -> None:
    line = LedgerLine(actor)
    line.open(0)
    step = 0
    for _ in range(2):  # more deaths than Ray forgives an actor by default
        for number in range(60):
            step += 1
            line.step(record(step))
            if number == 30:
                line.evaluation({"step": step, "metrics": {"loss": 1.0}})
            assert not line.stop_requested()
            if number == 20:
                kill(actor)
        until(lambda: try_flush(line), "an answer of the ledger")
        lines = [json.loads(text) for text in (tmp_path / "steps.jsonl").read_text().splitlines()]
        assert lines == [record(number) for number in range(1, step + 1)]
    evaluated = [json.loads(text)["step"] for text in (tmp_path / "evals.jsonl").read_text().splitlines()]
    assert evaluated == [31, 91]


def test_what_the_ledger_missed_is_sent_again_before_the_next_checkpoint(
    connected: Cluster, actor: Any, tmp_path: Path
) -> None:
    line = LedgerLine(actor)
    line.open(0)
    line.step(record(1))
    line.flush()
    kill(actor)
    sent = 1

    def complete() -> bool:
        nonlocal sent
        sent += 1
        line.step(record(sent))
        line.stop_requested()
        time.sleep(0.05)
        found = [json.loads(text)["step"] for text in (tmp_path / "steps.jsonl").read_text().splitlines()]
        return len(found) > 10 and found == list(range(1, found[-1] + 1))

    until(complete, "the steps that were sent while the ledger was away")


def test_a_flush_reports_a_disk_that_cannot_be_written(
    connected: Cluster, actor: Any, tmp_path: Path
) -> None:
    line = LedgerLine(actor)
    line.open(0)
    (tmp_path / "steps.jsonl").mkdir()
    line.step(record(1))
    with pytest.raises(OSError, match="directory"):
        line.flush()
    kill(actor)  # it held the step in memory
    (tmp_path / "steps.jsonl").rmdir()
    until(lambda: try_flush(line), "an answer of the ledger")
    assert json.loads((tmp_path / "steps.jsonl").read_text()) == record(1)


def test_a_loop_that_starts_while_the_ledger_is_away_waits_for_it(
    connected: Cluster, actor: Any, tmp_path: Path
) -> None:
    line = LedgerLine(actor)
    line.open(0)
    kill(actor)
    LedgerLine(actor).open(0)
