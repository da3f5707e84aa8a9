"""What a run survives, with real processes: each test kills something and asks for the bits of a calm run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import head, processes_below
from commands import WORKER, run, steps_of, until, write_config
from runs import CALM_STEPS as STEPS
from runs import RAYLET, attempts, checkpoints, ended, final, start, summary


def one_worker(cluster: Any) -> list[psutil.Process]:
    return cluster.processes(WORKER)[:1]


def all_workers(cluster: Any) -> list[psutil.Process]:
    return cluster.processes(WORKER)


@pytest.mark.parametrize("victims", [one_worker, pytest.param(all_workers, marks=pytest.mark.long)])
def test_killed_workers_are_started_again(
    victims: Callable[[Any], list[psutil.Process]], cluster: Any, calm: Any, tmp_path: Path
) -> None:
    config, folder = write_config(tmp_path, "killed", STEPS), tmp_path / "runs" / "killed"
    driver = start(cluster, config, "cluster.max_failures=3")
    until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
    killed = victims(cluster)
    for process in killed:
        process.send_signal(signal.SIGKILL)
    assert killed
    ended(driver, config)
    assert len(attempts(folder)) == 2
    assert final(folder) == calm


@pytest.mark.long
def test_a_node_is_lost_and_the_run_goes_on_with_fewer_workers(cluster: Any, tmp_path: Path) -> None:
    """Two workers, then one: the order of samples is the same, and the losses within 1e-4."""
    options = ["peft.dropout=0.0", "train.optimizer.lr=0.001"]  # a larger one amplifies rounding without end
    calm = run(cluster, write_config(tmp_path, "whole", 60), *options, "--json")
    assert calm.returncode == 0, calm.stderr
    with head(tmp_path, cpus=1) as small, small.node(tmp_path) as node:
        config, folder = write_config(tmp_path, "fewer", 60), tmp_path / "runs" / "fewer"
        elastic = ["cluster.workers=[1,2]", "cluster.cpus_per_worker=0.9", "cluster.max_failures=3"]
        driver = start(small, config, *options, *elastic)
        until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
        assert attempts(folder)[0]["workers"] == 2
        (raylet,) = processes_below(node, RAYLET)
        raylet.kill()
        ended(driver, config)
    assert [one["workers"] for one in attempts(folder)] == [2, 1]
    assert summary(folder)["order_sha256"] == json.loads(calm.stdout)["order_sha256"]
    wanted = [record["loss"] for record in steps_of(tmp_path / "runs" / "whole")]
    assert [record["loss"] for record in steps_of(folder)] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.long
def test_a_worker_that_hangs_is_found_and_started_again(cluster: Any, calm: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "hangs", STEPS), tmp_path / "runs" / "hangs"
    driver = start(cluster, config, "cluster.max_failures=3", "cluster.hang_seconds=10")
    until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
    (stopped,) = one_worker(cluster)
    stopped.send_signal(signal.SIGSTOP)
    ended(driver, config)
    assert final(folder) == calm
    assert len(attempts(folder)) == 2


@pytest.mark.long  # `make test` has a stop on request, which goes the same way: test_waiting.py
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75)])
def test_a_driver_that_is_told_to_stop_saves_first(
    name: str, code: int, cluster: Any, calm: Any, tmp_path: Path
) -> None:
    config, folder = write_config(tmp_path, "told", STEPS), tmp_path / "runs" / "told"
    driver = start(cluster, config, "train.save_every_steps=1000")
    until(lambda: len(steps_of(folder)) > 3, "a few steps", driver=driver)
    driver.send_signal(getattr(signal, name))
    ended(driver, config, code)
    assert checkpoints(folder) == [len(steps_of(folder))]
    assert run(cluster, config).returncode == 0
    assert final(folder) == calm


@pytest.mark.long
@pytest.mark.parametrize("jump", ["-2d", "+2d"])
def test_the_clock_of_the_driver_jumps(jump: str, cluster: Any, calm: Any, tmp_path: Path) -> None:
    """While the workers start or train: a run takes longer than its command's first 12 seconds."""
    (library,) = (
        str(file.locate())
        for file in importlib.metadata.files("libfaketime") or ()
        if file.name == "libfaketime.so.1"
    )
    faked = {"LD_PRELOAD": library, "FAKETIME": jump, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
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
    assert run(cluster, config).returncode == 0


@pytest.mark.long
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
