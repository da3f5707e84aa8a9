"""Tests of the private cluster's processes. That a whole run is saved is shown in tests/ray and tests/system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medray.cli import cluster


@pytest.mark.parametrize("starting", [True, False])
def test_processes_of_a_private_cluster_are_not_in_the_group_of_medray(
    starting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal for the group of medray would end its Ray before the run is saved."""
    monkeypatch.setattr(cluster, "_starting", starting)
    # Ray starts its processes with a preexec_fn too.
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpgid(0) == os.getpid())"],
        preexec_fn=lambda: None,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(starting)
