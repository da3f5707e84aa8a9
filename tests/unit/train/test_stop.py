"""When the driver ends at once: a stop that no worker would see."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from medray.config import Config
from medray.errors import StoppedError
from medray.train import driver


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
