"""A run that lives in a bucket ends with the bits of one in a folder, whatever died or was away meanwhile."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import WORKER, run, steps_of, until, write_config
from runs import CALM_STEPS, ended, start
from s3_server import S3Server
from safetensors.torch import load_file

from medray import storage
from medray.storage import StoragePath
from medray.train import checkpoint

OUTAGE_STEPS = 120  # a run that is long enough to lose its storage and get it back


def hashes(folder: StoragePath, steps: int) -> list[str]:
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    assert found.progress.step == steps
    return [found.files[name]["sha256"] for name in sorted(found.files)]


def saved(folder: StoragePath) -> int:
    found = checkpoint.newest(folder / "checkpoints")
    return found.progress.step if found else 0


def shown(config: Path) -> int:
    """The last step that the console has told: in the bucket steps.jsonl grows at checkpoints only."""
    return max(map(int, re.findall(r"step +(\d+)/", config.with_suffix(".log").read_text())), default=0)


def bucketed(folder: Path, name: str, steps: int) -> tuple[Path, StoragePath]:
    """(config of a run in the bucket, its folder there)"""
    config = write_config(folder, name, steps)
    tree = yaml.safe_load(config.read_text())
    tree["run"]["storage"] = "s3://bucket/runs"
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    config.write_text(yaml.safe_dump(tree))
    return config, storage.at(f"s3://bucket/runs/{name}")


def assert_same(folder: StoragePath, calm: Path, steps: int) -> None:
    """The bits of the calm run: state, losses, exported weights; each step once."""
    assert hashes(folder, steps) == hashes(calm, steps)
    assert [one["loss"] for one in steps_of(folder)] == [one["loss"] for one in steps_of(calm)]
    assert [one["step"] for one in steps_of(folder)] == list(range(1, steps + 1))
    ours, theirs = (
        load_file(storage.local(place / "export") / "adapter_model.safetensors") for place in (folder, calm)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(values, theirs[name]) for name, values in ours.items())


def test_a_killed_worker_is_started_again_and_a_bucket_ends_as_a_folder(
    cluster: Any, s3: S3Server, calm_run: Path, tmp_path: Path
) -> None:
    config, folder = bucketed(tmp_path, "killed", CALM_STEPS)
    driver = start(cluster, config, "cluster.max_failures=3")
    until(lambda: saved(folder) >= 10, "a checkpoint", driver=driver)
    cluster.processes(WORKER)[0].kill()
    said = ended(driver, config)

    assert "resumed after step" in said
    summary, wanted = (json.loads((one / "summary.json").read_text()) for one in (folder, calm_run))
    assert summary["restarts"] == 1
    for key in ("order_sha256", "samples", "tokens", "loss_tokens", "train_loss_first", "train_loss_last"):
        assert summary[key] == wanted[key], key
    assert summary["eval"]["after"]["loss"] == wanted["eval"]["after"]["loss"]
    assert_same(folder, calm_run, CALM_STEPS)
    assert {"config.yaml", "steps.jsonl", "summary.json", "report.html"} <= set(storage.sizes(folder))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute(
            "select r.name, r.status, count(*), count(distinct m.step) from runs r join metrics m "
            "on r.run_uuid = m.run_uuid where m.key = 'train/loss' group by r.run_uuid"
        ).fetchall()
    assert runs == [("killed", "FINISHED", CALM_STEPS, CALM_STEPS)]


@pytest.mark.long
def test_a_bucket_that_is_away_for_a_while(cluster: Any, s3: S3Server, tmp_path: Path) -> None:
    done = run(cluster, write_config(tmp_path, "calm", OUTAGE_STEPS))
    assert done.returncode == 0, done.stderr
    config, folder = bucketed(tmp_path, "away", OUTAGE_STEPS)
    driver = start(cluster, config)
    until(lambda: saved(folder) >= 10, "a checkpoint", driver=driver)
    with s3.away():  # training goes on, and its checkpoints are tried again
        last = shown(config)
        until(lambda: ", retrying: " in config.with_suffix(".log").read_text(), "a failed upload")
        until(lambda: shown(config) > last, "steps without storage")
    until(lambda: saved(folder) > last, "a checkpoint after storage came back")
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    done = run(cluster, config, "--json")
    assert done.returncode == 0, done.stderr
    assert_same(folder, tmp_path / "runs" / "calm", OUTAGE_STEPS)
    again = run(cluster, config, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["steps"] == OUTAGE_STEPS
