"""The MLflow run of all stages together: the runs of the stages are its children.

The first stage that reaches MLflow creates it, and the folder of the whole keeps its id, so it survives restarts. It ends
when the last stage has ended, or when one has failed or was stopped. No failure of MLflow reaches the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.stages import stage_configs
from medray.errors import StoppedError
from medray.tracking import Ledger, ParentRun
from medray.tracking.mlflow_run import RUN_FILE
from medray.train.driver import tracking
from medray.train.run_folder.earlier_run import finished_result
from medray.train.run_folder.files import RunResult, folder_of

Say = Callable[[str, str], None]


def parent_run(config: Config, config_file: str | Path | None) -> ParentRun | None:
    """Return the MLflow run of the whole; None without stages, and if the config switches tracking off."""
    if not config.stages:
        return None
    spec = tracking.tracking_spec(config, config_file)
    return ParentRun(str(folder_of(config)), spec) if spec.enabled else None


@contextmanager
def ended_on_error(config: Config, parent: ParentRun | None, say: Say) -> Iterator[None]:
    """End the MLflow run of the whole if the block raises, unless no stage has reached MLflow."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # storage may be the cause
            if parent is not None and (folder_of(config) / RUN_FILE).exists():
                _end(parent, {"status": "stopped" if isinstance(error, StoppedError) else "failed"}, [], say)
        raise


def end(parent: ParentRun, result: RunResult, say: Say) -> None:
    """Send the summary of the whole and end the run. A server that does not answer costs seconds, and no error."""
    _end(parent, result.summary, tracking.artifacts(result.folder, report=False), say)


def _end(parent: ParentRun, summary: dict[str, Any], files: list[str], say: Say) -> None:
    ledger = Ledger(parent.folder, parent.spec)
    ledger.send_unsent(summary, files)
    for record in ledger.poll(0):
        say("tracking", record["text"])


def send_unsent(config: Config, done: RunResult, say: Say, config_file: str | Path | None = None) -> None:
    """Send MLflow what it lacks of a finished run, or of a finished whole and its stages. Needs no Ray."""
    parent = parent_run(config, config_file)
    for stage in stage_configs(config):  # first, because each opens the run of the whole again
        if result := finished_result(stage):
            tracking.send_unsent(stage, result, say, config_file, parent)
    tracking.send_unsent(config, done, say, config_file)
