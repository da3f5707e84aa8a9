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


def folder_of_run(text: str, *, must_exist: bool = True) -> StoragePath:
    """Raises InputError where there is no such run. must_exist: whether a run that is only planned is none."""
    if text.endswith((".yaml", ".yml")) and not storage.is_remote(text):
        from medray.config.load import load
        from medray.train.rerun import folder_of

        folder = folder_of(load(text))
    else:
        folder, must_exist = storage.at(text), True
    storage.check_reachable(folder)
    if must_exist and not folder.is_dir():
        where = folder.parent if isinstance(folder, Path) else folder
        raise InputError("there is no such run", file=folder, mend=f"look into {where} for its name")
    return folder
