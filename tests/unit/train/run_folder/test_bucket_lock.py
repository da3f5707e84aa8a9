"""The lock of a run in a bucket: claims on a real S3 server, whose holders end in every way."""

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
from medray.config import Config
from medray.errors import InputError
from medray.storage import S3Path
from medray.train.run_folder import bucket_lock, lock
from medray.train.run_folder.earlier_run import move_aside

# The values outside of tests; the tests shorten them.
LEASE, RENEW, LOOK = bucket_lock.LEASE_SECONDS, bucket_lock.RENEW_SECONDS, bucket_lock.LOOK_SECONDS

HOLDER = """
import sys
from medray import storage
from medray.train.run_folder import bucket_lock, lock
bucket_lock.RENEW_SECONDS = 0.5
with lock.held(storage.at(sys.argv[1])):
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
    """Set a lease that no pause of a busy machine outlasts; the test of a killed holder uses a short one."""
    monkeypatch.setattr(bucket_lock, "LEASE_SECONDS", 600.0)
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(bucket_lock, "LOOK_SECONDS", 0.2)


@pytest.fixture
def holder(server: S3Server, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the run of this test."""
    command = [sys.executable, "-c", HOLDER, f"s3://bucket/{tmp_path.name}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "held\n"
        yield started
        started.kill()


def claims(run: S3Path) -> list[S3Path]:
    return list(bucket_lock.claims_of(run).iterdir())


def test_a_lease_survives_failed_renewals() -> None:
    """Three renewals in a row may fail, and a new start looks at least once between two renewals."""
    assert 0 < 3 * RENEW < LEASE - LOOK
    assert 0 < LOOK < RENEW
    assert LEASE <= 60, "a start after a kill waits that long"


def test_a_second_start_is_refused_while_the_first_lives(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    run, said = S3Path(f"bucket/{tmp_path.name}"), list[str]()
    with pytest.raises(InputError, match=f"in use by another start .*pid {holder.pid}") as caught:
        lock.held(run, said.append).__enter__()
    assert (caught.value.key, caught.value.value) == ("run.name", tmp_path.name)
    assert len(said) == 1
    assert len(claims(run)) == 1  # the claim of the live holder
    assert holder.stdin is not None
    holder.stdin.close()
    holder.wait(30)
    with lock.held(run, said.append):
        pass
    assert len(said) == 1  # a holder that ended normally leaves no claim to wait for
    assert claims(run) == []


def test_a_start_waits_for_a_killed_holder_only_until_its_lease_ends(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "LEASE_SECONDS", 2.0)
    run, said = S3Path(f"bucket/{tmp_path.name}"), list[str]()
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with lock.held(run, said.append), lock.held(run):  # the same thread may take it again
        (claim,) = claims(run)
        assert str(os.getpid()) in claim.read_text()
    assert len(said) == 1


def test_the_end_of_a_run_keeps_the_claim_of_a_new_start(server: S3Server, tmp_path: Path) -> None:
    run = S3Path(f"bucket/{tmp_path.name}")
    newcomer = bucket_lock.claims_of(run) / "newcomer"
    with lock.held(run):
        storage.write(newcomer, "{}")
    assert claims(run) == [newcomer]


def test_a_claim_that_another_start_deleted_is_written_again(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, put = S3Path(f"bucket/{tmp_path.name}"), storage.write

    def put_and_lost(claim: S3Path, text: str) -> None:
        monkeypatch.setattr(storage, "write", put)
        storage.write(claim, text)
        claim.unlink()

    monkeypatch.setattr(storage, "write", put_and_lost)
    with lock.held(run):
        assert len(claims(run)) == 1


def test_a_run_whose_folder_is_moved_away_stays_claimed(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 600.0)
    run = S3Path(f"bucket/{tmp_path.name}/r")
    storage.write(run / "config.yaml", "")
    with lock.held(run):
        newcomer = bucket_lock.claims_of(run) / "newcomer"
        storage.write(newcomer, "{}")
        before = claims(run)
        aside = move_aside(Config.model_validate({"run": {"storage": str(run.parent), "name": run.name}}))
        assert claims(run) == before
        assert len(before) == 2
    assert aside == run.with_name("r.old-1")
    assert storage.sizes(run.with_name("r.old-1")) == {"config.yaml": 0}
    assert not run.exists()


def test_unreachable_storage_is_an_input_error(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="NETWORK_CONNECTION"):
        lock.held(storage.at("s3://bucket/away")).__enter__()
