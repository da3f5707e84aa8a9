"""JSON files of a run or a token folder: nothing in them is believed before it was checked.

A sealed file is one JSON object with the SHA-256 of its other values under "sha256". A file of an earlier version has no
such value and is taken as it is, so the reader still checks each value's type.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath

SEAL = "sha256"
LARGEST_TREE = 1 << 30  # bytes; the index of a split names its rows that were left out
LARGEST_LINES = 4 << 30  # bytes of a file of lines
LONGEST_LINE = 1 << 20  # bytes; a record of a step has 1,000


@dataclass(frozen=True)
class Lines:
    """The objects of a JSON-lines file in their order. unreadable: number of lines without one."""

    records: list[dict[str, Any]]
    unreadable: int


def write_sealed(
    path: StoragePath, tree: dict[str, Any], *, indent: int | None = None, durable: bool = False
) -> None:
    """Write `tree`, a dict with text keys, with its hash."""
    storage.write(path, json.dumps({**tree, SEAL: digest(tree)}, indent=indent) + "\n", durable=durable)


def read_sealed(path: StoragePath, *, fix: str = storage.COPY_AGAIN) -> dict[str, Any]:
    """Return the object without its hash. Raises InputError where it is not what was written, OSError as `open` does."""
    tree = storage.read_json(path, limit_bytes=LARGEST_TREE, fix=fix)
    if SEAL in tree and tree.pop(SEAL) != digest(tree):
        raise InputError("its content does not match its own hash", file=path, fix=fix)
    return tree


def read_lines(path: StoragePath) -> Lines:
    """Return the objects of a JSON-lines file. Lines that hold none are counted: a kill may have cut one off.

    So is a last line without its end: nobody knows whether it is whole.

    Raises InputError for what is no regular file or is larger than LARGEST_LINES, OSError as `open` does.
    """
    records: list[dict[str, Any]] = []
    unreadable = 0
    with storage.open_bounded(path, LARGEST_LINES) as (opened, size):
        # An object's stream knows no lines.
        stream = opened if isinstance(path, Path) else io.BytesIO(opened.read(size))
        while line := stream.readline(LONGEST_LINE):
            end = line
            while not end.endswith(b"\n") and (more := stream.readline(LONGEST_LINE)):
                end = more
            found = _record(line) if end is line and line.endswith(b"\n") else None
            if found is not None:
                records.append(found)
            elif line.strip():
                unreadable += 1
    return Lines(records, unreadable)


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object, most: int = 2**53) -> bool:
    """Return whether a JSON value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


@contextmanager
def checking(path: StoragePath, *, fix: str = storage.COPY_AGAIN) -> Iterator[None]:
    """Inside, a value of the wrong type or a missing one becomes an InputError that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError("a value in it is missing or of the wrong type", file=path, fix=fix) from None


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = storage.parse_json(line, None)
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def digest(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
