"""Runs of the command that are disturbed: started in the background, waited for, and read afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import ray
from commands import command, steps_of

from medray.train import checkpoint

RAYLET = f"{Path(ray.__file__).parent}/core/src/ray/raylet/raylet"
CALM_STEPS = 40  # of the run that others are compared with
# Overrides of that run: metrics, and answers that are written.
EVALUATED = (
    "eval.metrics=[rouge]",
    "eval.batch_size=4",
    "eval.generation={rows: 6, max_new_tokens: 4}",
)


def start(cluster: Any, config: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command(config, *overrides),
            env={**os.environ, "RAY_ADDRESS": cluster.address, **environment},
            stdout=log,
            stderr=log,
        )


def ended(driver: subprocess.Popen[bytes], config: Path, code: int = 0) -> str:
    """Return what the command printed."""
    driver.wait(timeout=200)
    said = config.with_suffix(".log").read_text()
    assert driver.returncode == code, said
    return said


def final(folder: Path) -> tuple[list[str], list[float]]:
    """Hashes of the state after the last step, and all losses."""
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    steps = steps_of(folder)
    assert [record["step"] for record in steps] == list(range(1, found.progress.step + 1))
    return [found.files[name]["sha256"] for name in sorted(found.files)], [one["loss"] for one in steps]


def checkpoints(folder: Path) -> list[int]:
    return [found.progress.step for found in checkpoint.complete(folder / "checkpoints")]


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
