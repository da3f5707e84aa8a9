"""The MLflow run of a search: the runs of its trials are its children.

It is created before the first trial, because trials that begin at the same time would create one each. Its id is in the
search's folder, so it survives restarts. No failure of MLflow reaches the trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.tracking import Ledger, ParentRun
from medray.tracking.mlflow_run import UNSENT_FILE, RunIdentity, open_client
from medray.train.driver import tracking
from medray.train.run_folder.files import folder_of
from medray.train.side_thread import SideThread

Say = Callable[[str, str], None]
OPEN_SECONDS = (
    30.0  # a new database migrates for 13 s; after this, the first trial that reaches MLflow creates the run
)


def parent_run(config: Config, config_file: str | Path | None) -> ParentRun | None:
    """Return the MLflow run of a search; None if the config switches tracking off."""
    spec = tracking.tracking_spec(config, config_file)
    return ParentRun(str(folder_of(config)), spec) if spec.enabled else None


def opening(parent: ParentRun) -> SideThread:
    """Open the MLflow run in another thread, where a server that does not answer costs nothing."""

    def open_it() -> None:
        identity = RunIdentity(storage.at(parent.folder), parent.spec, lambda text: None)
        identity.note_unsent()  # its end is missing until the search has ended
        with suppress(Exception):  # of MLflow; the trials try again
            identity.open(open_client(parent.spec.uri), int(time.time() * 1000), lambda: False)

    return SideThread(open_it)


def end(parent: ParentRun, summary: dict[str, Any], say: Say) -> None:
    """Send the summary and the page of a search, and end its run. A server that does not answer costs seconds."""
    folder = storage.at(parent.folder)
    ledger = Ledger(parent.folder, parent.spec)
    ledger.send_unsent(summary, tracking.artifacts(folder))
    for record in ledger.poll(0):
        say("tracking", record["text"])


def send_unsent(config: Config, summary: dict[str, Any], config_file: str | Path | None, say: Say) -> None:
    """Send what MLflow lacks of a finished search. Needs no Ray."""
    parent = parent_run(config, config_file)
    with suppress(OSError):
        if parent is not None and (folder_of(config) / UNSENT_FILE).exists():
            end(parent, summary, say)
