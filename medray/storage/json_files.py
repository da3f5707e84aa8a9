"""JSON files of a run or of token shards. Their content is checked before it is used.

A sealed file is one JSON object that contains the SHA-256 of its other values under "sha256". Files of an earlier
version have no hash and are accepted, so readers must still check the type of each value.
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
    """The JSON objects of a JSON-lines file, in order. unreadable: number of lines that are not a JSON object."""

    records: list[dict[str, Any]]
    unreadable: int


def write_sealed(
    path: StoragePath, tree: dict[str, Any], *, indent: int | None = None, durable: bool = False
) -> None:
    """Write `tree`, a dict with text keys, together with its hash."""
    storage.write(path, json.dumps({**tree, SEAL: digest(tree)}, indent=indent) + "\n", durable=durable)


def read_sealed(path: StoragePath, *, fix: str = storage.COPY_AGAIN) -> dict[str, Any]:
    """Read a sealed file and return its object without the hash.

    Raises InputError if the content does not match the hash, OSError as `open` does.
    """
    tree = storage.read_json(path, limit_bytes=LARGEST_TREE, fix=fix)
    if SEAL in tree and tree.pop(SEAL) != digest(tree):
        raise InputError(
            "the file is damaged or was edited: its content does not match the SHA-256 in it",
            file=path,
            fix=fix,
        )
    return tree


def read_lines(path: StoragePath) -> Lines:
    """Read the JSON objects of a JSON-lines file.

    Unreadable lines are counted and skipped, because a killed process may have cut one off. A last line without a line
    end counts as unreadable too: it may be incomplete.

    Raises InputError if this is not a regular file or is larger than LARGEST_LINES, OSError as `open` does.
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
    """Return whether a JSON value is a number. true and false are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object, most: int = 2**53) -> bool:
    """Return whether a JSON value is an integer from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


@contextmanager
def checking(path: StoragePath, *, fix: str = storage.COPY_AGAIN) -> Iterator[None]:
    """Turn errors about missing or wrongly typed values inside the block into an InputError that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(
            "a value in this file is missing or has the wrong type", file=path, fix=fix
        ) from None


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = storage.parse_json(line, None)
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def digest(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object. The order of its keys does not matter."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
