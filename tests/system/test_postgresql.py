"""MLflow on a real PostgreSQL: numbers arrive there, and its password, which the environment holds, is nowhere else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medray.config import Config
from medray.tracking import Ledger
from medray.tracking.mlflow_run import open_client
from medray.train.driver.tracking import tracking_spec
from medray.train.run_folder.files import FILES

SECRET = "correct-horse-battery"
OWNER = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root


def program(name: str) -> str:
    """A program of PostgreSQL, on PATH or where Debian has it; the test skips where it is absent."""
    found = [shutil.which(name), *map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    if not (path := next(filter(None, found), None)):
        pytest.skip(f"PostgreSQL's {name} is not installed (Debian: apt install postgresql)")
    return path


@pytest.fixture
def uri() -> Iterator[str]:
    """The URI of a database of its own, with its password."""
    initdb, postgres = program("initdb"), program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="medray-pg-"))  # pytest's own folders are closed to other users
    (folder / "password").write_text(SECRET)
    if OWNER:
        for path in (folder, folder / "password"):
            shutil.chown(path, OWNER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    user: dict[str, Any] = {"user": OWNER, "extra_groups": []} if OWNER else {}
    make = [
        initdb,
        "-D",
        data,
        "-U",
        "medray",
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "--no-sync",
    ]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **user)
    serve = [postgres, "-D", data, "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*serve, "-c", "fsync=off"], stdout=log, stderr=log, cwd=folder, **user)
    try:
        limit = time.monotonic() + 60
        while not (folder / f".s.PGSQL.{port}").exists() or not _listens(port):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit, "PostgreSQL does not answer"
            time.sleep(0.05)
        yield f"postgresql://medray:{SECRET}@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # TERM would wait for MLflow's connections
        server.wait()
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_the_password_of_the_tracking_database_stays_in_the_environment(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    config = Config.model_validate(
        {"run": {"storage": str(tmp_path), "name": "run"}, "data": {"train": ["a.jsonl"]}}
    )
    ledger = Ledger(str(tmp_path / "run"), tracking_spec(config))
    ledger.open(resumed_step=0)
    for step in range(1, 4):
        ledger.step({"step": step, "loss": 3.0 / step, "tokens": 100, "seconds": 0.5})
    artifact = tmp_path / "run" / "config.yaml"
    artifact.write_text("run: {}\n")
    ledger.close({"status": "done", "steps": 3}, [str(artifact)])

    run_id, client = ledger.mlflow_run_id(), open_client(uri)
    assert run_id is not None, ledger.poll(0)
    assert [one.step for one in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3]
    run: Any = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    shown = capfd.readouterr()
    said = [run.data.params, run.data.tags, run.info.artifact_uri, ledger.poll(0), shown.out, shown.err]
    said += [path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in (tmp_path / "run").iterdir()} & set(FILES), (
        "nothing was written: nothing is shown"
    )
    assert not any(SECRET in str(one) for one in said)
