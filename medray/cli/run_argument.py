"""The RUN argument of several verbs: the folder of a run, or its config."""

from __future__ import annotations

import argparse
from pathlib import Path

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        help="folder of a run (<run.storage>/<run.name> or s3://...), or its config",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="with a config: the same values that train or launch got",
    )


def refuse_credentials(url: str, key: str = "RUN") -> None:
    """Raise InputError if a URL contains a user name or a password."""
    from medray.config.loading.credentials import has_credentials

    if has_credentials(url):
        raise InputError(
            "the URL contains a user name or a password",
            key=key,
            fix="use s3://bucket/prefix/name, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        )


def folder_of_run(
    arguments: argparse.Namespace, *, planned: bool = False, logged: bool = False
) -> StoragePath:
    """Return the folder of the run that a command names.

    planned: whether a config may name a run that has not begun. logged: whether a folder of predictions will do too. Raises InputError if there is no such run.
    """
    from medray.report.run_log import FILE as LOG
    from medray.train.run_folder import lock
    from medray.train.run_folder.files import CONFIG

    text, overrides = arguments.run_folder, arguments.overrides
    refuse_credentials(text)
    if text.endswith((".yaml", ".yml")) and not storage.is_remote(text):
        from medray.config import read
        from medray.train.run_folder.files import folder_of

        folder = folder_of(read(text, overrides))
        if planned:
            storage.check_reachable(folder)
            return folder
    elif overrides:
        raise InputError(
            "key=value is allowed only with a config",
            key="RUN",
            value=text[:200],
            fix="use the run's config instead of its folder, or remove key=value",
        )
    else:
        folder = storage.at(text)
    storage.check_reachable(folder)
    if not folder.is_dir():
        where = folder.parent if isinstance(folder, Path) else folder
        raise InputError(
            "there is no run in this folder",
            file=folder,
            fix=f"check the run's name; the runs are in {where}",
        )
    if logged and (folder / LOG).exists():
        return folder
    if not (folder / CONFIG).exists() and lock.holder(folder) is None:
        raise InputError(
            "this folder is not the folder of a run",
            file=folder,
            fix="use <run.storage>/<run.name>, or the run's config",
        )
    return folder
