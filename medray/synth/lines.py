"""JSON-lines files of a synthesis: written as a whole or not at all, line by line, in a folder or a bucket."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from medray import storage
from medray.storage import StoragePath


def write_lines(path: StoragePath, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSON lines and return their number. A reader sees the whole new file or the whole old one."""
    bucket = not isinstance(path, Path)
    folder = storage.temporary_folder() if bucket else Path(str(path)).parent
    staging = folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    count = 0
    try:
        with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            for row in rows:
                stream.write(orjson.dumps(row) + b"\n")
                count += 1
        if isinstance(path, Path):
            staging.replace(path)
        else:
            storage.put_file(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    return count


def count_lines(path: Path) -> int | None:
    """Return the number of lines of a local file, or None if it does not exist."""
    try:
        with open(path, "rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except FileNotFoundError:
        return None
