"""What a run's config says of MLflow, and what MLflow still lacks of a run that is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medray import storage
from medray.config import Config
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tracking import Ledger, TrackingSpec
from medray.tracking.mlflow_run import UNSENT_FILE
from medray.train import run_lock
from medray.train.rerun import RunResult, flat


def tracking_spec(config: Config) -> TrackingSpec:
    tracking, run = config.tracking, config.run
    # Of a run on S3 the config names one: config/check.py
    uri = tracking.uri or f"sqlite:///{Path(run.storage).resolve() / 'mlflow.db'}"
    return TrackingSpec(
        tracking.enabled,
        uri,
        tracking.experiment,
        tracking.run_name or run.name,
        dict(tracking.tags),
        flat(config.model_dump(mode="json")),
        tracking.show_text,
    )


def artifacts(folder: StoragePath) -> list[str]:
    """The files of a run folder that MLflow gets at its end."""
    return [str(folder / name) for name in ("config.yaml", "summary.json", "report.html")]


def send_unsent(config: Config, done: RunResult, phase: Callable[[str, str], None]) -> None:
    """Gives MLflow what it lacks of a run that is done, and says so; does not need Ray.

    phase: prints a name and a sentence. Raises nothing on account of MLflow or storage: the next start tries again.
    """
    try:
        if not config.tracking.enabled or not (done.folder / UNSENT_FILE).exists():
            return
        with run_lock.held(done.folder, lambda text: phase("lock", text)):
            phase("tracking", "MLflow lacks a part of this run: sending it")
            ledger = Ledger(str(done.folder), tracking_spec(config))
            sent = ledger.send_unsent(done.summary, artifacts(done.folder))
    except InputError as error:
        phase("tracking", f"MLflow lacks a part of this run, which is not sent now: {error.what}")
        return
    except OSError as error:
        phase("tracking", f"what MLflow lacks of this run could not be read: {storage.summary(error)}")
        return
    for record in ledger.poll(0):
        phase("tracking", record["text"])
    if sent:
        phase("tracking", "MLflow has all of this run now")
