"""One driver a run in a bucket: claims on a real S3 server, their holders ended in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server

from medray import storage
from medray.errors import InputError
from medray.train import bucket_lock, run_lock

HOLDER = """
import sys
from medray import storage
from medray.train import bucket_lock, run_lock
bucket_lock.RENEW_SECONDS = 0.5
with run_lock.held(storage.at(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), "bucket") as started:
        yield started


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_lock, "LEASE_SECONDS", 4.0)
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(bucket_lock, "LOOK_SECONDS", 0.2)


@pytest.fixture
def holder(server: S3Server, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another start that has the run of this test."""
    command = [sys.executable, "-c", HOLDER, f"s3://bucket/{tmp_path.name}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "held\n"
        yield started
        started.kill()


def test_a_second_start_is_refused_while_the_first_lives(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    run, said = storage.at(f"s3://bucket/{tmp_path.name}"), list[str]()
    with pytest.raises(InputError, match=f"in use by another start .*pid {holder.pid}") as caught:
        run_lock.held(run, said.append).__enter__()
    assert (caught.value.key, caught.value.value) == ("run.name", tmp_path.name)
    assert len(said) == 1
    assert len(list((run / bucket_lock.FOLDER).iterdir())) == 1  # the claim of the one that lives
    assert holder.stdin is not None
    holder.stdin.close()
    holder.wait(30)
    with run_lock.held(run, said.append):
        pass
    assert len(said) == 1  # one that ended in order leaves nothing to wait for
    assert not (run / bucket_lock.FOLDER).exists()


def test_a_killed_holder_is_waited_for_and_no_longer(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    run, said = storage.at(f"s3://bucket/{tmp_path.name}"), list[str]()
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with run_lock.held(run, said.append), run_lock.held(run):  # the same thread may take it again
        (claim,) = (run / bucket_lock.FOLDER).iterdir()
        assert str(os.getpid()) in claim.read_text()
    assert len(said) == 1


def test_storage_that_cannot_be_asked_is_an_input_error(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="NETWORK_CONNECTION"):
        run_lock.held(storage.at("s3://bucket/away")).__enter__()
