"""The command line on a running cluster: killed and started again; as a Ray job; exit codes and messages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import WORKER, command, run, steps_of, until, write_config


def test_killed_in_the_middle_and_started_again_nothing_happened(cluster: Any, tmp_path: Path) -> None:
    steps = 60
    calm = run(cluster, write_config(tmp_path, "calm", steps))
    assert calm.returncode == 0, calm.stderr
    config, folder = write_config(tmp_path, "killed", steps), tmp_path / "runs" / "killed"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            command(config), env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=log, stderr=log
        )
        try:
            until(
                lambda: any((folder / "checkpoints").glob("step-00000020-*/manifest.json")), "checkpoint 20"
            )
            reached = len(steps_of(folder))
        finally:
            workers = cluster.processes(WORKER)
            for process in [psutil.Process(driver.pid), *workers]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            driver.wait()
    assert workers
    assert reached < steps
    assert not (folder / "summary.json").exists()

    again = run(cluster, config, "--json")
    assert again.returncode == 0, again.stderr
    assert "resumed after step" in again.stderr
    summary, wanted = (
        json.loads(again.stdout),
        json.loads((tmp_path / "runs" / "calm" / "summary.json").read_text()),
    )
    resumed = json.loads((folder / "attempts.jsonl").read_text().splitlines()[1])["resumed_step"]
    assert resumed in range(20, steps, 10)
    assert summary["restarts"] == 1
    for key in ("order_sha256", "samples", "tokens", "loss_tokens", "train_loss_first", "train_loss_last"):
        assert summary[key] == wanted[key], key
    losses, calm_losses = (
        [(step["step"], step["loss"]) for step in steps_of(tmp_path / "runs" / name)]
        for name in ("killed", "calm")
    )
    assert losses == calm_losses
    assert summary["eval"]["after"] == wanted["eval"]["after"]
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        runs = database.execute(
            "select r.name, r.status, count(*), count(distinct m.step) from runs r join metrics m "
            "on r.run_uuid = m.run_uuid where m.key = 'train/loss' group by r.run_uuid order by r.name"
        ).fetchall()
    assert runs == [("calm", "FINISHED", steps, steps), ("killed", "FINISHED", steps, steps)]

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


def test_as_a_ray_job(cluster: Any, tmp_path: Path) -> None:
    config = write_config(tmp_path, "job", 4)

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "job",
                "submit",
                "--address",
                cluster.jobs,
                "--",
                *command(config, *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    good = submit()
    assert good.returncode == 0, good.stdout + good.stderr
    assert json.loads((tmp_path / "runs" / "job" / "summary.json").read_text())["status"] == "done"
    bad = submit("train.learning_rate=3")
    assert bad.returncode == 1
    assert "did you mean train.optimizer.lr?" in bad.stdout + bad.stderr


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["cluster.workers=50", "train.micro_batch_size=1"], "this cluster has 4"),
        (["data.columns.label=note"], "no such column"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(
    cluster: Any, overrides: list[str], says: str, tmp_path: Path
) -> None:
    done = run(cluster, write_config(tmp_path, "wrong", 4), *overrides)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
