"""One Ray cluster for all tests of this folder: a head with dashboard and job server, in processes that only we end."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster, head
from commands import run, write_config
from own_environment import seen_in
from s3_server import S3Server, s3_server

# Read by Ray while it is imported, so it stands before any test's import.
OWN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}
os.environ.update(OWN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with seen_in(Path(__file__).parent, OWN, item):
        return (yield)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket named `bucket`, which every process of the tests can reach."""
    with s3_server(tmp_path_factory.mktemp("s3"), "bucket") as server:
        yield server


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Cluster]:
    with head(tmp_path_factory.mktemp("ray"), cpus=4) as started:
        yield started


@pytest.fixture(scope="package")
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, joined by the test process."""
    import ray

    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    yield cluster
    ray.shutdown()


@pytest.fixture(scope="package")
def calm_run(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happens to, which others are compared with.

    Beside its config, calm.log is what the command printed.
    """
    from runs import CALM_STEPS, EVALUATED

    folder = tmp_path_factory.mktemp("calm")
    done = run(cluster, write_config(folder, "calm", CALM_STEPS), *EVALUATED)
    assert done.returncode == 0, done.stderr
    (folder / "calm.log").write_text(done.stdout + done.stderr)
    return folder / "runs" / "calm"


@pytest.fixture(scope="package")
def calm(calm_run: Path) -> tuple[list[str], list[float]]:
    """Its hashes and losses."""
    from runs import final

    return final(calm_run)
