"""`medray doctor` on a cluster of two nodes, of which one has another package and a medray that does not start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_nodes_that_differ(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    (other / "medray").mkdir(parents=True)
    (other / "medray" / "__init__.py").write_text("raise ImportError('not of this version')")
    (other / "peft-0.1.dist-info").mkdir()
    (other / "peft-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n"
    )
    with monkeypatch.context() as there:
        there.setenv("PYTHONPATH", str(other))
        started = cluster.node(tmp_path)
        started.__enter__()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "medray", "doctor", "--json", f"--storage={tmp_path}/runs/new"],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            cwd=tmp_path,  # Ray puts a driver's folder into the path of all workers: this checkout's medray is not meant
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        started.__exit__(None, None, None)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["findings"]
    states: dict[str, list[str]] = {}
    for one in found:
        states.setdefault(one["name"], []).append(one["state"])
    # The limits and disks of this machine are its own affair.
    assert states["node"] == states["network"] == states["storage"] == states["ray auth"] == ["ok", "ok"]
    assert states["clock"] == ["ok"]
    assert states["same versions"] == ["fail"]
    (differs,) = [one for one in found if one["name"] == "same versions"]
    assert "medray absent (here 0." in differs["detail"]
    assert "peft 0.1 (here 0." in differs["detail"]
    assert os.uname().nodename in differs["node"]
    assert os.environ["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()
