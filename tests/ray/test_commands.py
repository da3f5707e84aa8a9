"""The command line on a running cluster: as a Ray job; exit codes and messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import command, run, write_config


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


@pytest.mark.long  # test_run.py has the refusal, tests/unit/cli/test_errors.py the exit code
def test_wrong_input_ends_with_2_and_one_message(cluster: Any, tmp_path: Path) -> None:
    """A refusal that only the cluster can make; tests/unit/cli/test_errors.py has the others."""
    config = write_config(tmp_path, "wrong", 4)
    done = run(cluster, config, "cluster.workers=50", "cluster.nodes=1", "train.micro_batch_size=1")
    assert done.returncode == 2
    assert "this cluster has 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_for_what_the_cluster_has(cluster: Any, tmp_path: Path) -> None:
    """The memory of a node is what Ray says; tests/unit/cli/test_plan.py has the rest."""
    config = write_config(tmp_path, "planned", 4)
    done = subprocess.run(
        [sys.executable, "-m", "medray", "plan", str(config), "--cluster", "--json"],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["gpus"], found["workers"], found["precision"]) == (None, 2, "fp32")
    assert found["asked"]["fits"] is True
