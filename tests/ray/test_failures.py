"""What a run survives, with real processes: each test kills something and asks for the bits of a calm run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import head
from commands import WORKER, run, steps_of, until, write_config
from runs import CALM_STEPS as STEPS
from runs import attempts, checkpoints, ended, final, start, summary

pytestmark = pytest.mark.long  # `make test` kills one worker of a run in a bucket: test_s3.py


def test_killed_workers_are_started_again(cluster: Any, calm: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "killed", STEPS), tmp_path / "runs" / "killed"
    driver = start(cluster, config, "cluster.max_failures=3")
    until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
    killed = cluster.processes(WORKER)
    for process in killed:
        process.send_signal(signal.SIGKILL)
    assert killed
    ended(driver, config)
    assert len(attempts(folder)) == 2
    assert final(folder) == calm


def test_a_worker_that_hangs_is_found_and_started_again(cluster: Any, calm: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "hangs", STEPS), tmp_path / "runs" / "hangs"
    driver = start(cluster, config, "cluster.max_failures=3", "cluster.hang_seconds=10")
    until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
    cluster.processes(WORKER)[0].send_signal(signal.SIGSTOP)
    ended(driver, config)
    assert final(folder) == calm
    assert len(attempts(folder)) == 2


def test_a_driver_that_is_told_to_stop_saves_first(cluster: Any, calm: Any, tmp_path: Path) -> None:
    """USR1 and Ctrl-C go the same way: tests/unit/train/test_stop.py, tests/unit/cli/test_train_again.py."""
    config, folder = write_config(tmp_path, "told", STEPS), tmp_path / "runs" / "told"
    driver = start(cluster, config, "train.save_every_steps=1000")
    until(lambda: len(steps_of(folder)) > 3, "a few steps", driver=driver)
    driver.send_signal(signal.SIGTERM)
    assert "Traceback" not in ended(driver, config, code=75)
    assert checkpoints(folder) == [len(steps_of(folder))]
    assert run(cluster, config).returncode == 0
    assert final(folder) == calm


def test_the_clock_of_the_driver_jumps(cluster: Any, calm: Any, tmp_path: Path) -> None:
    """While the workers start or train: a run takes longer than its command's first 12 seconds."""
    (library,) = (
        str(file.locate())
        for file in importlib.metadata.files("libfaketime") or ()
        if file.name == "libfaketime.so.1"
    )
    faked = {"LD_PRELOAD": library, "FAKETIME": "-2d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=os.environ | faked,
        capture_output=True,
        check=True,
    )
    assert abs(float(told.stdout) - time.time()) > 86_400, "the clock does not jump"
    config, folder = write_config(tmp_path, "jumped", STEPS), tmp_path / "runs" / "jumped"
    driver = start(cluster, config, FAKETIME_START_AFTER_SECONDS="12", **faked)
    ended(driver, config)
    assert final(folder) == calm
    assert len(attempts(folder)) == 1
    seconds = summary(folder)["seconds"]
    assert 0 < seconds["train"] < seconds["total"] < 43_200  # the clock jumps by days
    assert seconds["total"] > 12, "it ended before the jump"
    assert all(one >= 0 for one in seconds.values())


def test_the_head_dies_and_another_cluster_goes_on(calm: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "headless", STEPS), tmp_path / "runs" / "headless"
    with head(tmp_path, cpus=4) as first:
        driver = start(first, config, "cluster.max_failures=3")
        until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
        for process in [*first.head.children(recursive=True), first.head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        driver.wait(timeout=200)
        assert driver.returncode == 1, config.with_suffix(".log").read_text()
    (tmp_path / "second").mkdir()
    with head(tmp_path / "second", cpus=4) as second:
        assert run(second, config).returncode == 0
    assert final(folder) == calm
