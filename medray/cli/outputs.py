"""Output files that a user names: overwritten only with --force, and written completely or not at all."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medray.errors import InputError


def add_force(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--force", action="store_true", help=f"overwrite {what} that exists")


def check_new(path: str, key: str | None, *, force: bool) -> None:
    """Raise InputError if `path` is a folder or, without `force`, an existing file. Devices and pipes are allowed.

    key: the option that gave the path, for messages.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError("this is a folder, not a file", file=path, key=key, fix="name a file in this folder")
    if not force and (target.is_file() or target.is_symlink()):
        raise InputError(
            "the file exists already",
            file=path,
            key=key,
            fix="name another file, or add --force to overwrite it",
        )


@contextmanager
def whole_file(path: str, key: str | None) -> Iterator[IO[str]]:
    """Yield a text stream whose content is moved to `path` when the block ends without an error.

    Raises InputError if the file cannot be written.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a file cannot be moved onto a device or a pipe
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
            f"cannot write this file ({error.strerror})",
            file=path,
            key=key,
            fix="name a file in an existing folder that you may write to",
        ) from None


def finite(value: Any) -> Any:
    """Return a JSON value with None instead of NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
