"""What a run survives, with real processes: each test kills something and asks for the bits of a calm run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from clusters import head, processes_below
from commands import WORKER, command, run, steps_of, until, write_config

from medray.train import checkpoint

STEPS = 40
RAYLET = f"{Path(ray.__file__).parent}/core/src/ray/raylet/raylet"


def final(folder: Path) -> tuple[list[str], list[float]]:
    """Hashes of the state after the last step, and all losses."""
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    steps = steps_of(folder)
    assert [record["step"] for record in steps] == list(range(1, found.progress.step + 1))
    return [found.files[name]["sha256"] for name in sorted(found.files)], [one["loss"] for one in steps]


def checkpoints(folder: Path) -> list[int]:
    return [found.progress.step for found in checkpoint.complete(folder / "checkpoints")]


@pytest.fixture(scope="module")
def calm(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[float]]:
    folder = tmp_path_factory.mktemp("calm")
    done = run(cluster, write_config(folder, "calm", STEPS))
    assert done.returncode == 0, done.stderr
    return final(folder / "runs" / "calm")


def start(cluster: Any, config: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command(config, *overrides),
            env={**os.environ, "RAY_ADDRESS": cluster.address, **environment},
            stdout=log,
            stderr=log,
        )


def ended(driver: subprocess.Popen[bytes], config: Path, code: int = 0) -> str:
    driver.wait(timeout=200)
    said = config.with_suffix(".log").read_text()
    assert driver.returncode == code, said
    return said


def one_worker(cluster: Any) -> list[psutil.Process]:
    return cluster.processes(WORKER)[:1]


def all_workers(cluster: Any) -> list[psutil.Process]:
    return cluster.processes(WORKER)


@pytest.mark.parametrize("victims", [one_worker, all_workers])
def test_killed_workers_are_started_again(
    victims: Callable[[Any], list[psutil.Process]], cluster: Any, calm: Any, tmp_path: Path
) -> None:
    config, folder = write_config(tmp_path, "killed", STEPS), tmp_path / "runs" / "killed"
    driver = start(cluster, config, "cluster.max_failures=3")
    until(lambda: 10 in checkpoints(folder), "checkpoint 10")
    killed = victims(cluster)
    for process in killed:
        process.send_signal(signal.SIGKILL)
    began, reached = time.monotonic(), len(steps_of(folder))
    until(lambda: len(steps_of(folder)) > reached, "a step after the kill")
    print(f"{time.monotonic() - began:.1f} s from the kill to the next new step")
    assert killed
    ended(driver, config)
    assert final(folder) == calm


def test_a_node_is_lost_and_the_run_goes_on_with_fewer_workers(cluster: Any, tmp_path: Path) -> None:
    """Two workers, then one: the order of samples is the same, and the losses within 1e-4."""
    options = ["peft.dropout=0.0", "train.max_steps=60"]
    calm = run(cluster, write_config(tmp_path, "whole", 60), *options, "--json")
    assert calm.returncode == 0, calm.stderr
    with head(tmp_path, cpus=1) as small, small.node(tmp_path) as node:
        config, folder = write_config(tmp_path, "fewer", 60), tmp_path / "runs" / "fewer"
        elastic = ["cluster.workers=[1,2]", "cluster.cpus_per_worker=0.9", "cluster.max_failures=3"]
        driver = start(small, config, *options, *elastic)
        until(lambda: 10 in checkpoints(folder), "checkpoint 10")
        assert attempts(folder)[0]["workers"] == 2
        (raylet,) = processes_below(node, RAYLET)
        raylet.kill()
        began, reached = time.monotonic(), len(steps_of(folder))
        until(lambda: len(steps_of(folder)) > reached, "a step after the kill")
        print(f"{time.monotonic() - began:.1f} s from the kill to the next new step")
        ended(driver, config)
    assert [one["workers"] for one in attempts(folder)] == [2, 1]
    assert summary(folder)["order_sha256"] == json.loads(calm.stdout)["order_sha256"]
    wanted = [record["loss"] for record in steps_of(tmp_path / "runs" / "whole")]
    assert [record["loss"] for record in steps_of(folder)] == pytest.approx(wanted, abs=1e-4)


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
