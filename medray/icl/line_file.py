"""A file of JSON lines that grows while a command works, so that a killed command resumes with the next line.

The first line holds a fingerprint of everything that decides the other lines. A file with another one is replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medray.errors import InputError
from medray.storage import json_files

FINGERPRINT = "fingerprint"


def read(path: Path, fingerprint: str | None = None) -> dict[str, dict[str, Any]] | None:
    """Return the rows of a file by id, or None if there is no file, or one with another fingerprint.

    fingerprint: None accepts any. Of rows with the same id, the last one counts.
    """
    if not path.is_file():
        return None
    records = json_files.read_lines(path).records
    if not records or not isinstance(records[0].get(FINGERPRINT), str):
        return None
    if fingerprint is not None and records[0][FINGERPRINT] != fingerprint:
        return None
    rows: dict[str, dict[str, Any]] = {}
    for record in records[1:]:
        if not isinstance(record.get("id"), str):
            raise InputError("a line of this file has no id", file=path, fix="delete this file")
        rows[record["id"]] = record
    return rows


def about(path: Path) -> dict[str, Any]:
    """Return the first line of a file; {} if there is none."""
    if not path.is_file():
        return {}
    records = json_files.read_lines(path).records
    return records[0] if records and FINGERPRINT in records[0] else {}


class Lines:
    """The open file. rows: the rows that were there before, by id."""

    def __init__(self, stream: IO[str], rows: dict[str, dict[str, Any]]) -> None:
        self.rows = rows
        self._stream = stream

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row with an `id`, and hand it to the operating system."""
        self.rows[str(row["id"])] = dict(row)
        line = json.dumps(row, ensure_ascii=False)
        if any("\ud800" <= character <= "\udfff" for character in line):  # an unpaired half cannot be written
            line = json.dumps(row)
        self._stream.write(line + "\n")
        self._stream.flush()


@contextmanager
def opened(path: Path, fingerprint: str, **facts: str) -> Iterator[Lines]:
    """Open a file to append rows. Its rows are kept if the fingerprint is the same; otherwise the file is replaced.

    facts: more values for the first line of a new file.
    """
    rows = read(path, fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if rows is None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps({FINGERPRINT: fingerprint, **facts}) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    with path.open("rb+") as tail:  # a killed process may have left a part of a line
        if tail.seek(0, os.SEEK_END):
            tail.seek(-1, os.SEEK_END)
            if tail.read(1) != b"\n":
                tail.write(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        yield Lines(stream, rows or {})
