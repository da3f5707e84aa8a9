"""The ledger's process is killed again and again: whoever sends to it waits for nothing, and no step is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from commands import until

from medray.tracking import TrackingSpec, ledger
from medray.tracking.ledger_line import LedgerLine

OFF = TrackingSpec(False, "", "medray", "run", {}, {}, False)


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "tokens": 100, "seconds": 0.5}


def kill(cluster: Cluster) -> None:
    [process] = cluster.processes("ray::Ledger")
    process.kill()
    process.wait()


def try_flush(line: LedgerLine) -> bool:
    try:
        line.flush()
    except OSError:
        return False
    return True


def test_no_step_is_lost_when_the_ledger_is_killed(connected: Cluster, tmp_path: Path) -> None:
    line = LedgerLine(ledger.start(str(tmp_path), OFF))
    line.open(0)
    slowest, step = 0.0, 0
    for _ in range(5):  # more deaths than Ray forgives an actor by default
        for number in range(60):
            step += 1
            began = time.perf_counter()
            line.step(record(step))
            if number == 30:
                line.evaluation({"step": step, "metrics": {"loss": 1.0}})
            assert not line.stop_requested()
            slowest = max(slowest, time.perf_counter() - began)
            if number == 20:
                kill(connected)
        until(lambda: try_flush(line), "an answer of the ledger")
        lines = [json.loads(text) for text in (tmp_path / "steps.jsonl").read_text().splitlines()]
        assert lines == [record(number) for number in range(1, step + 1)]
    assert slowest < 0.25, "the step path waited for the ledger"
    evaluated = [json.loads(text)["step"] for text in (tmp_path / "evals.jsonl").read_text().splitlines()]
    assert evaluated == [31, 91, 151, 211, 271]


def test_what_the_ledger_missed_is_sent_again_before_the_next_checkpoint(
    connected: Cluster, tmp_path: Path
) -> None:
    line = LedgerLine(ledger.start(str(tmp_path), OFF))
    line.open(0)
    line.step(record(1))
    line.flush()
    kill(connected)
    (tmp_path / "steps.jsonl").write_text("")  # what it wrote after its last flush never reached the disk
    sent = 1

    def complete() -> bool:
        nonlocal sent
        sent += 1
        line.step(record(sent))
        line.stop_requested()
        time.sleep(0.05)
        found = [json.loads(text)["step"] for text in (tmp_path / "steps.jsonl").read_text().splitlines()]
        return len(found) > 10 and found == list(range(2, found[-1] + 1))

    until(complete, "the steps that were sent while the ledger was away")


def test_a_flush_says_when_the_disk_does_not_take_it(connected: Cluster, tmp_path: Path) -> None:
    line = LedgerLine(ledger.start(str(tmp_path / "run"), OFF))
    line.open(0)
    (tmp_path / "run/steps.jsonl").mkdir()
    line.step(record(1))
    with pytest.raises(OSError, match="directory"):
        line.flush()
    kill(connected)  # it held the step in memory
    (tmp_path / "run/steps.jsonl").rmdir()
    until(lambda: try_flush(line), "an answer of the ledger")
    assert json.loads((tmp_path / "run/steps.jsonl").read_text()) == record(1)


def test_a_loop_that_starts_while_the_ledger_is_away_waits_for_it(
    connected: Cluster, tmp_path: Path
) -> None:
    line = LedgerLine(ledger.start(str(tmp_path), OFF))
    line.open(0)
    kill(connected)
    LedgerLine(line._ledger).open(0)
