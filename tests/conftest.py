"""What every test needs: quiet, offline libraries, and the folder of real corpora."""

from __future__ import annotations

import os

# Before any import of Ray, transformers or MLflow, which read these once.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    TOKENIZERS_PARALLELISM="false",
)

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class _Groups(LoadScopeScheduling):
    """What one process runs where several do: all tests that start Ray clusters, and else those of a file."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(("tests/ray/", "tests/system/")) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Groups(config, log)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora that MEDRAY_CORPORA names; the test skips where it is absent."""
    folder = os.environ.get("MEDRAY_CORPORA")
    if not folder:
        pytest.skip("MEDRAY_CORPORA is not set: real corpora are absent")
    if not Path(folder).is_dir():
        pytest.skip(f"MEDRAY_CORPORA is no folder here: {folder}")
    return Path(folder)
