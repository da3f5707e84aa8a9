"""An existing run of the same name: it is finished, or it can be moved aside."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from medray import storage
from medray.config import Config
from medray.errors import InputError
from medray.storage import StoragePath
from medray.train.run_folder import changes, files, lock
from medray.train.run_folder.files import RunResult, folder_of
from medray.train.run_folder.finished_run import has_export

RUN_FILES = ("config.yaml", "attempts.jsonl", "steps.jsonl", "summary.json", "checkpoints", ".ray")


def finished_result(config: Config) -> RunResult | None:
    """Return the result of a finished run; None if something is left to do.

    A config that asks for more steps continues the run, and one that asks for fewer does not; a missing export is made
    again. Raises InputError if another key that decides the numbers or a file of the data has changed, or if one of the
    run's files is not a regular file.
    """
    folder = folder_of(config)
    try:
        summary = files.read_summary(folder)
    except (OSError, InputError):  # the run continues and writes it again
        return None
    if summary is None or summary["status"] != "done":
        return None
    files.check_files(folder)
    if not (folder / "config.yaml").exists() or not has_export(folder):
        return None
    changes.check_unchanged(folder / "config.yaml", config)
    has_enough = config.train.max_steps is not None and config.train.max_steps <= summary["steps"]
    if not has_enough and changes.length_changed(
        changes.config_at_start(folder / "config.yaml"), changes.leaves(config.model_dump(mode="json"))
    ):
        return None
    if tokens := _tokens(config):
        changes.check_same_data(folder / "data.json", tokens, config)
    return RunResult(folder, summary)


def _tokens(config: Config) -> str | None:
    """Return the folder that training shards of the current data files would have. Reads only files that have changed.

    None if a file is gone, because a finished run no longer needs it.
    """
    from medray.data.shards.preparation import Preparation
    from medray.plan.model_config import describe

    try:
        model = describe(config.model, config.data.vocab_size)
        layout = Preparation(config, model.architecture, model.folder)
    except InputError:
        return None
    return str(layout.folder / "train")


def move_aside(config: Config) -> StoragePath | None:
    """Rename the run's folder to the first free `<name>.old-N` and return it; None if there is no such run.

    The next start finds nothing and begins at step 0, with its own MLflow run; the old folder names the old MLflow run.
    Token shards are shared by all runs of the storage and stay. Raises InputError while the run is alive, and for a folder
    that no run has written.
    """
    folder = folder_of(config)
    if not folder.is_dir():
        return None
    with lock.held(folder):
        there = {path.name for path in folder.iterdir()} - {lock.FILE}
        if not there:
            return None
        if not there.intersection(RUN_FILES):
            raise InputError(
                f"{folder} holds files, and none of them is a run's",
                key="run.name",
                value=config.run.name,
                fix="use another run.name or run.storage",
            )
        aside = next(
            path for number in count(1) if not _there(path := folder.with_name(f"{folder.name}.old-{number}"))
        )
        storage.move(folder, aside)
        if isinstance(aside, Path):  # claims on a run in a bucket are outside its folder
            (aside / lock.FILE).unlink(missing_ok=True)
    return aside


def _there(path: StoragePath) -> bool:
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()
