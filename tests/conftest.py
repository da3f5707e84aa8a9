"""What every test needs: quiet, offline libraries, and the folder of real corpora."""

from __future__ import annotations

import os
import sys

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
    "tests/unit/train/loop/test_adapters.py",
    "tests/unit/cli/test_train_again.py",
    "tests/unit/train/loop/test_variants_loop.py",
    "tests/unit/cli/test_export.py",
    "tests/unit/tracking/test_clock_jumps.py",
    "tests/unit/tracking/test_mlflow_log.py",
    "tests/unit/tracking/test_mlflow_server.py",
    "tests/unit/models/adapters/test_merging.py",
    "tests/unit/test_recipes.py",
    "tests/unit/plan/test_adapters.py",
)
# They share two ranks that train (tests/support/torchrun.py).
RANKS = (
    "tests/unit/train/checkpoint/test_checkpoint.py",
    "tests/unit/train/loop/test_exactness.py",
    "tests/unit/train/test_dpo.py",
    "tests/unit/plan/test_truth.py",
)


# Files and folders that `make check` leaves out (--quick): their tests import torch, or wait for MLflow.
NOT_QUICK = (
    "tests/unit/cli/test_chat.py",
    "tests/unit/cli/test_serve.py",
    "tests/unit/cli/data/test_inspect.py",
    "tests/unit/cli/data/test_inspect_imports.py",
    "tests/unit/cli/data/test_pairs_from_model.py",
    "tests/unit/cli/test_export.py",
    "tests/unit/cli/test_predict.py",
    "tests/unit/cli/test_predict_whole.py",
    "tests/unit/cli/test_train_again.py",
    "tests/unit/config/checks/test_train.py",
    "tests/unit/data/encode/test_encode.py",
    "tests/unit/data/encode/test_method_tokens.py",
    "tests/unit/data/encode/test_targets.py",
    "tests/unit/data/encode/test_templates.py",
    "tests/unit/data/files/test_split_names.py",
    "tests/unit/data/index/test_membership.py",
    "tests/unit/data/index/test_row_index.py",
    "tests/unit/data/inspect/test_inspection.py",
    "tests/unit/data/inspect/test_near_duplicates.py",
    "tests/unit/data/shards/test_preparation.py",
    "tests/unit/data/shards/test_shard_file.py",
    "tests/unit/data/test_reasoning.py",
    "tests/unit/data/test_tokenizer.py",
    "tests/unit/data/test_tokenizer_file.py",
    "tests/unit/evaluate",
    "tests/unit/icl/index/test_encoder.py",
    "tests/unit/icl/selection/test_cross_encoder.py",
    "tests/unit/icl/test_asking.py",
    "tests/unit/launch/doctor/test_machine.py",
    "tests/unit/methods",
    "tests/unit/models",
    "tests/unit/plan/test_adapters.py",
    "tests/unit/plan/test_memory.py",
    "tests/unit/plan/test_model_config.py",
    "tests/unit/plan/test_parameters.py",
    "tests/unit/plan/test_options.py",
    "tests/unit/plan/test_pretrained.py",
    "tests/unit/plan/test_truth.py",
    "tests/unit/test_private_files.py",
    "tests/unit/test_recipes.py",
    "tests/unit/tracking/test_clock_jumps.py",
    "tests/unit/tracking/test_mlflow_log.py",
    "tests/unit/tracking/test_mlflow_server.py",
    "tests/unit/train",
)


REFUSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out the tests that are not quick, and let no other import torch",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Under --quick, leave out what is listed."""
    if not config.getoption("--quick"):
        return None
    return True if collection_path.relative_to(config.rootpath).as_posix() in NOT_QUICK else None


def _refuse_torch(config: pytest.Config, who: str) -> None:
    """Fail once in a process, under --quick, when `who` has imported torch."""
    if config.getoption("--quick") and "torch" in sys.modules and not config.stash.get(REFUSED, False):
        config.stash[REFUSED] = True
        raise pytest.UsageError(
            f"{who} imports torch: import it where it is needed, or add the file to NOT_QUICK"
        )


def pytest_itemcollected(item: pytest.Item) -> None:
    _refuse_torch(item.config, f"{_file(item.nodeid)}, or a file that was collected before it,")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    _refuse_torch(item.config, item.nodeid)


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


class _Scopes(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
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
