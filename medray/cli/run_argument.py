"""Which run a command means: by its folder, or by its config."""

from __future__ import annotations

import argparse
from pathlib import Path

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", metavar="RUN", help="folder of a run, <run.storage>/<run.name>, s3://..., or its config"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="with a config: as they were given to train or launch",
    )


def folder_of_run(arguments: argparse.Namespace, *, planned: bool = False) -> StoragePath:
    """The folder of the run that a command means.

    planned: whether a config may mean a run that has not begun. Raises InputError where there is no such run.
    """
    from medray.config.credentials import has_credentials
    from medray.train.run_folder import lock
    from medray.train.run_folder.files import CONFIG

    text, overrides = arguments.run_folder, arguments.overrides
    if has_credentials(text):
        raise InputError(
            "holds credentials", key="RUN", fix="s3://bucket/prefix/name, with AWS_* in the environment"
        )
    if text.endswith((".yaml", ".yml")) and not storage.is_remote(text):
        from medray.config import read
        from medray.train.run_folder.previous_run import folder_of

        folder = folder_of(read(text, overrides))
        if planned:
            storage.check_reachable(folder)
            return folder
    elif overrides:
        raise InputError(
            "key=value belongs to a config", key="RUN", value=text[:200], fix="name the run's config"
        )
    else:
        folder = storage.at(text)
    storage.check_reachable(folder)
    if not folder.is_dir():
        where = folder.parent if isinstance(folder, Path) else folder
        raise InputError("there is no such run", file=folder, fix=f"look into {where} for its name")
    if not (folder / CONFIG).exists() and lock.holder(folder) is None:
        raise InputError(
            "holds no run", file=folder, fix="name <run.storage>/<run.name>, or the run's config"
        )
    return folder
