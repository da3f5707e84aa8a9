"""The command line on a running cluster: killed and started again; as a Ray job; exit codes and messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import command, run, steps_of, until, write_config


def test_a_run_that_is_done_says_so_and_a_changed_one_is_refused(cluster: Any, calm_run: Path) -> None:
    config = calm_run.parents[1] / "calm.yaml"
    done = run(cluster, config)
    assert done.returncode == 0
    assert "was finished before" in done.stderr
    changed = run(cluster, config, "train.max_steps=70", "train.optimizer.lr=0.5")
    assert (changed.returncode, "train.optimizer.lr" in changed.stderr) == (2, True), changed.stderr


@pytest.mark.long
def test_ctrl_c_saves_and_the_same_command_goes_on(cluster: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "stopped", 60), tmp_path / "runs" / "stopped"
    driver = subprocess.Popen(
        command(config), env={**os.environ, "RAY_ADDRESS": cluster.address}, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(steps_of(folder)) >= 3, "step 3")
    driver.send_signal(signal.SIGINT)
    _, shown = driver.communicate(timeout=60)
    assert driver.returncode == 130, shown
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert len(list((folder / "checkpoints").glob(f"step-{summary['steps']:08d}-*/manifest.json"))) == 1
    assert "Traceback" not in shown
    again = run(cluster, config, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["steps"] == 60
    assert [step["step"] for step in steps_of(folder)] == list(range(1, 61))


@pytest.mark.long
def test_of_two_starts_at_once_one_trains_and_the_other_is_refused(cluster: Any, tmp_path: Path) -> None:
    config = write_config(tmp_path, "twice", 4)
    starts = [
        subprocess.Popen(
            command(config),
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    shown = [start.communicate(timeout=200)[1] for start in starts]
    codes = [start.returncode for start in starts]
    assert sorted(codes) == [0, 2], shown
    trained, refused = codes.index(0), codes.index(2)
    assert f"pid {starts[trained].pid}, since" in shown[refused]
    assert "Traceback" not in shown[refused]
    folder = tmp_path / "runs" / "twice"
    assert [step["step"] for step in steps_of(folder)] == [1, 2, 3, 4]
    assert not (folder / ".lock").exists()


def submit(cluster: Any, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    job = ["job", "submit", "--address", cluster.jobs, "--", *command(config, *arguments)]
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *job],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.long
def test_as_a_ray_job(cluster: Any, tmp_path: Path) -> None:
    good = submit(cluster, write_config(tmp_path, "job", 4))
    assert good.returncode == 0, good.stdout + good.stderr
    assert json.loads((tmp_path / "runs" / "job" / "summary.json").read_text())["status"] == "done"


@pytest.mark.long
def test_a_ray_job_with_wrong_input(cluster: Any, tmp_path: Path) -> None:
    bad = submit(cluster, write_config(tmp_path, "job", 4), "train.learning_rate=3")
    assert bad.returncode == 1
    assert "did you mean train.optimizer.lr?" in bad.stdout + bad.stderr


def test_wrong_input_ends_with_2_and_one_message(cluster: Any, tmp_path: Path) -> None:
    """A refusal that only the cluster can make; tests/unit/cli/test_errors.py has the others."""
    config = write_config(tmp_path, "wrong", 4)
    done = run(cluster, config, "cluster.workers=50", "cluster.nodes=1", "train.micro_batch_size=1")
    assert done.returncode == 2
    assert "this cluster has 4" in done.stderr
    assert "Traceback" not in done.stderr
