"""The check of `medray doctor` that MLflow accepts what a run writes. Nothing stays in MLflow."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from pathlib import Path

from medray.tracking.mlflow_run import open_client

EXPERIMENT = "medray-doctor"  # always the same, because deleted experiments keep their names
LOCK_SECONDS = 3.0
SQLITE = "sqlite:///"


def load() -> None:
    """Import MLflow now, because the import takes seconds."""
    import mlflow  # noqa: F401


def check_store(uri: str) -> str:
    """Write a test run to an MLflow server or database, remove it, and return a phrase that says what was done.

    Raises the error of the step that fails.
    """
    if uri.startswith(SQLITE):
        return _check_file(Path(uri.removeprefix(SQLITE)).absolute())
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    client = open_client(uri)
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is None:
        experiment = str(client.create_experiment(EXPERIMENT))
    else:
        experiment = str(known.experiment_id)
        if known.lifecycle_stage != "active":
            client.restore_experiment(experiment)
    try:
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "doctor", 1.0, timestamp=int(time.time() * 1000), step=0)
        client.delete_run(run)
    finally:
        client.delete_experiment(experiment)
    return "a run was written and removed"


def _check_file(file: Path) -> str:
    """Check a SQLite file without MLflow, whose import and first database take seconds."""
    if not file.exists():
        folder = next(parent for parent in file.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable", str(folder))
        return "a new database, made by the first run"
    address = f"file:{urllib.parse.quote(str(file))}?mode=rw"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()
    return "can be written"
