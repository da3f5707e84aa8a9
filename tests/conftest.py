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

# The dearest files, dearest first: begun last, one of them would keep one process busy while the others have ended.
DEAR = (
    "tests/unit/train/test_adapters.py",
    "tests/unit/cli/test_train_again.py",
    "tests/unit/train/test_variants_loop.py",
    "tests/unit/cli/test_export.py",
    "tests/unit/tracking/test_mlflow_server.py",
    "tests/unit/models/adapters/test_merging.py",
    "tests/unit/test_recipes.py",
    "tests/unit/plan/test_adapters.py",
)
# They share two ranks that train (tests/support/torchrun.py).
RANKS = ("tests/unit/train/checkpoint/test_checkpoint.py", "tests/unit/train/test_exactness.py")


def scope(file: str) -> str:
    """Return what one of several processes runs: all tests that start Ray clusters, those of ranks, or those of a file."""
    if file.startswith(("tests/ray/", "tests/system/")):
        return "ray"
    return "ranks" if file in RANKS else file


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = ("ray", "ranks", *DEAR)
    place = {name: number for number, name in enumerate(first)}
    items.sort(key=lambda item: place.get(scope(_file(item.nodeid)), len(first)))


class _Scopes(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope(_file(nodeid))


@pytest.hookimpl(optionalhook=True)  # none asks for it under `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scopes(config, log)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora that MEDRAY_CORPORA names; the test skips where it is absent."""
    folder = os.environ.get("MEDRAY_CORPORA")
    if not folder:
        pytest.skip("MEDRAY_CORPORA is not set: real corpora are absent")
    if not Path(folder).is_dir():
        pytest.skip(f"MEDRAY_CORPORA is no folder here: {folder}")
    return Path(folder)
