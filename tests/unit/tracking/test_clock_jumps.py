"""Order, durations and timestamps stay right when the system's clock is set back or forward by days during a run."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest

from medray.report.console import Console
from medray.tracking import Ledger, TrackingSpec, mlflow_log
from medray.tracking.mlflow_run import open_client

DAY = 86_400.0


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "tokens": 100, "seconds": 0.5}


class Wall:
    """The time of day, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, day: float = 20_000) -> None:
        self.day = day
        monkeypatch.setattr(time, "time", lambda: self.day * DAY)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.day * DAY * 1e9))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def finish(ledger: Ledger, last: int) -> str:
    ledger.close({"status": "done", "steps": last}, [])
    assert [
        one["text"] for one in ledger.poll(0) if one["kind"] == "message" and "MLflow" in one["text"]
    ] == []
    run_id = ledger.mlflow_run_id()
    assert run_id is not None
    return run_id


def stamps(store: str, run_id: str) -> list[int]:
    """Milliseconds of the steps, which must be all there, in the order of steps."""
    history = sorted(
        (m.step, m.timestamp) for m in open_client(store).get_metric_history(run_id, "train/loss")
    )
    assert [step for step, _ in history] == list(range(1, len(history) + 1))
    return [stamp for _, stamp in history]


@pytest.mark.parametrize("jump", [-30.0, 30.0, -30_000.0], ids=["back", "forward", "before 1970"])
def test_a_clock_jump_keeps_order_and_distances_of_timestamps(
    jump: float, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "FLUSH_SECONDS", 0.05)
    wall = Wall(monkeypatch)
    ledger = Ledger(str(tmp_path), TrackingSpec(True, store, "jumps", "r", {}, {}, False))
    ledger.open(resumed_step=0)
    for step in range(1, 21):
        if step == 11:
            wall.day += jump
        ledger.step(record(step))
    told = [one["time"] for one in ledger.poll(0)]
    run_id = finish(ledger, 20)
    assert told == sorted(told)
    assert 20_000 * DAY <= told[0] <= told[-1] < 20_000 * DAY + 300
    found = stamps(store, run_id)
    assert len(found) == 20
    assert found == sorted(found)
    assert found[-1] - found[0] < 300_000
    info = open_client(store).get_run(run_id).info
    assert info.end_time is not None
    assert 0 <= info.end_time - info.start_time < 300_000


def test_a_clock_before_1970_is_accepted(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Wall(monkeypatch, day=-500)
    ledger = Ledger(str(tmp_path), TrackingSpec(True, store, "early", "r", {}, {}, False))
    ledger.open(resumed_step=0)
    for step in range(1, 6):
        ledger.step(record(step))
    assert len(stamps(store, finish(ledger, 5))) == 5


def test_a_clock_set_back_between_two_starts_does_not_put_later_steps_first(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    for first in (1, 11, 21):
        ledger = Ledger(str(tmp_path), TrackingSpec(True, store, "starts", "r", {}, {}, False))
        ledger.open(resumed_step=first - 1)
        for step in range(first, first + 10):
            ledger.step(record(step))
        run_id = finish(ledger, first + 9)
        wall.day -= 7
    found = stamps(store, run_id)
    assert len(found) == 30
    assert found == sorted(found)
    info = open_client(store).get_run(run_id).info
    assert info.end_time is not None
    assert info.end_time >= found[-1]


def test_the_console_keeps_counting_after_a_clock_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, stream = Wall(monkeypatch), io.StringIO()
    console = Console(stream, interactive=False)
    for step in range(1, 4):
        wall.day += (-1) ** step * 40
        console.show({"kind": "step", **record(step)}, total_steps=3)
        console.heartbeat()
    first, *_, last = stream.getvalue().splitlines()
    assert first.endswith("1/3  loss 3.0000  200 tokens/s  1.0 s left")
    assert last.endswith("3/3  loss 1.0000  200 tokens/s")
    assert all(line.startswith("[    0.0 s]") for line in (first, last))
    assert "still" not in stream.getvalue()
