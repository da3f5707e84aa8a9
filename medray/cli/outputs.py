"""Files that a user names for output: never written over without --force, and whole or not at all."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from medray.errors import InputError


def add_force(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--force", action="store_true", help=f"overwrite {what} that is there")


def check_new(path: str, key: str | None, *, force: bool) -> None:
    """Raises InputError for a folder, and without `force` for a file that is there. Devices and pipes are written to."""
    target = Path(path)
    if target.is_dir():
        raise InputError("is a folder", file=path, key=key, fix="name a file in it")
    if not force and (target.is_file() or target.is_symlink()):
        raise InputError("is there already", file=path, key=key, fix="name another file, or --force")


@contextmanager
def whole_file(path: str, key: str | None) -> Iterator[IO[str]]:
    """A text stream whose content is at `path` once the block ends without an error. Raises InputError."""
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a device or a pipe has no name to move to
            with target.open("w", encoding="utf-8") as stream:
                yield stream
            return
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                yield stream
            os.replace(temporary, target.resolve() if target.is_symlink() else target)
        except BaseException:
            os.unlink(temporary)
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})",
            file=path,
            key=key,
            fix="name a file in a folder that is there",
        ) from None
