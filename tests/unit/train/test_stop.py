"""When the driver ends at once: a stop that no worker would see."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from medray.config import Config
from medray.errors import StoppedError
from medray.train import driver, read_ahead


def test_a_stop_is_left_to_workers_that_step_and_else_ends_the_run(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"run": {"storage": str(tmp_path), "name": "r"}, "model": {"init": "random", "preset": "t5-tiny"},
         "data": {"dataset": "clinic", "tokenizer": "train"}}
    )  # fmt: skip
    stop = driver.StopSwitch()
    running = driver._Driver(config, [], None, stop)
    running.beat()
    stop.request(signal.SIGTERM)
    with pytest.raises(StoppedError, match="the same command again"):
        running.beat()
    for record, left_to_workers in (
        ({"kind": "phase", "name": "training"}, True),
        ({"kind": "phase", "name": "evaluation"}, True),
        ({"kind": "failure", "text": "worker 1: ended"}, False),
        ({"kind": "phase", "name": "model"}, False),
        ({"kind": "phase", "name": "training"}, True),
        ({"kind": "phase", "name": "export"}, False),
    ):
        running.hear(record)
        assert running.stepping is left_to_workers, record


def test_a_stop_is_heard_while_the_workers_wait_for_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker looks at the stop until its step has come: the driver ends the run, after a while in which it may come."""
    stop, clock = driver.StopSwitch(), [100.0]
    monkeypatch.setattr(driver.time, "monotonic", lambda: clock[0])
    running = driver._Driver(Config(), [], None, stop)
    running.hear({"kind": "phase", "name": "training"})
    running.hear({"kind": "waiting", "text": "the token shard 7"})
    stop.request(15)
    running.beat()
    clock[0] += driver.STOP_SECONDS + 1
    running.hear({"kind": "message", "text": "a checkpoint cannot be written"})
    with pytest.raises(StoppedError, match="while the workers waited for the token shard 7"):
        running.beat()
    running.hear({"kind": "step", "step": 8})
    running.beat()  # it is theirs again


def test_who_waits_for_a_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "WAITING_SECONDS", 0.01)
    told = threading.Event()

    def prepare(step: int) -> int:
        assert told.wait(10)
        return step

    with read_ahead.ReadAhead(prepare, range(2), waiting=told.set) as ahead:
        assert [ready.prepared for ready in ahead] == [0, 1]
