"""A run that lives in a bucket ends with the bits of one in a folder, whatever died or was away meanwhile."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from commands import run, steps_of, until, write_config
from runs import start
from s3_server import S3Server
from safetensors.torch import load_file

from medray import storage
from medray.storage import StoragePath
from medray.train import checkpoint

STEPS = 120


def hashes(folder: StoragePath) -> list[str]:
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    assert found.progress.step == STEPS
    return [found.files[name]["sha256"] for name in sorted(found.files)]


def saved(folder: StoragePath) -> int:
    found = checkpoint.newest(folder / "checkpoints")
    return found.progress.step if found else 0


def shown(config: Path) -> int:
    """The last step that the console has told: in the bucket steps.jsonl grows at checkpoints only."""
    return max(map(int, re.findall(r"step +(\d+)/", config.with_suffix(".log").read_text())), default=0)


def test_a_run_in_a_bucket(cluster: Any, s3: S3Server, tmp_path: Path) -> None:
    done = run(cluster, write_config(tmp_path, "calm", STEPS))
    assert done.returncode == 0, done.stderr
    calm = tmp_path / "runs" / "calm"

    config = write_config(tmp_path, "bucketed", STEPS)
    tree = yaml.safe_load(config.read_text())
    tree["run"]["storage"] = "s3://bucket/runs"
    tree["tracking"] = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    config.write_text(yaml.safe_dump(tree))
    folder = storage.at("s3://bucket/runs/bucketed")

    driver = start(cluster, config)
    until(lambda: saved(folder) >= 10, "a checkpoint")
    with s3.away():  # training goes on, and its checkpoints are tried again
        last = shown(config)
        until(lambda: "is tried again" in config.with_suffix(".log").read_text(), "a failed upload")
        until(lambda: shown(config) > last, "steps without storage")
    until(lambda: saved(folder) > last, "a checkpoint after storage came back")
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    done = run(cluster, config, "--json")
    assert done.returncode == 0, done.stderr
    assert hashes(folder) == hashes(calm)
    assert [one["loss"] for one in steps_of(folder)] == [one["loss"] for one in steps_of(calm)]
    assert [one["step"] for one in steps_of(folder)] == list(range(1, STEPS + 1))
    assert {"config.yaml", "steps.jsonl", "summary.json", "report.html"} <= set(storage.sizes(folder))

    ours, theirs = (
        load_file(storage.local(place / "export") / "adapter_model.safetensors") for place in (folder, calm)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(values, theirs[name]) for name, values in ours.items())
    again = run(cluster, config, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["steps"] == STEPS
