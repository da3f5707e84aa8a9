"""A file of JSON lines that grows while a command works, so that a killed command resumes with the next line.

A second file, NAME.about.json, holds a fingerprint of everything that decides the lines. Lines with another one are
replaced. The lines themselves are plain rows with an id, which other programs can read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medray import storage
from medray.errors import InputError
from medray.storage import json_files

FINGERPRINT = "fingerprint"


def read(path: Path, fingerprint: str) -> dict[str, dict[str, Any]] | None:
    """Return the rows of a file by id, or None if there is no file, or one with another fingerprint.

    Of rows with the same id, the last one counts.
    """
    if not path.is_file() or about(path).get(FINGERPRINT) != fingerprint:
        return None
    rows: dict[str, dict[str, Any]] = {}
    for record in json_files.read_lines(path).records:
        if not isinstance(record.get("id"), str):
            raise InputError("a line of this file has no id", file=path, fix="delete this file")
        rows[record["id"]] = record
    return rows


def about(path: Path) -> dict[str, Any]:
    """Return what is known of a file of lines: its fingerprint and more; {} if nothing is."""
    file = _about(path)
    return storage.read_json(file, fix="delete this file") if file.is_file() else {}


class Lines:
    """The open file. rows: the rows that were there before, by id."""

    def __init__(self, stream: IO[str], rows: dict[str, dict[str, Any]]) -> None:
        self.rows = rows
        self._stream = stream

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row with an `id`, and hand it to the operating system."""
        self.rows[str(row["id"])] = dict(row)
        line = json.dumps(row, ensure_ascii=False)
        if any("\ud800" <= character <= "\udfff" for character in line):  # half of a pair cannot be written
            line = json.dumps(row)
        self._stream.write(line + "\n")
        self._stream.flush()


@contextmanager
def opened(path: Path, fingerprint: str, **facts: str) -> Iterator[Lines]:
    """Open a file to append rows. Its rows are kept if the fingerprint is the same; otherwise the file is replaced.

    facts: what else `about` returns for a new file.
    """
    rows = read(path, fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if rows is None:
        path.unlink(missing_ok=True)  # before the new fingerprint, so that it is never that of old rows
        storage.write(_about(path), json.dumps({FINGERPRINT: fingerprint, **facts}) + "\n")
        path.touch()
    with path.open("rb+") as tail:  # a killed process may have left a part of a line
        if tail.seek(0, os.SEEK_END):
            tail.seek(-1, os.SEEK_END)
            if tail.read(1) != b"\n":
                tail.write(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        yield Lines(stream, rows or {})


def _about(path: Path) -> Path:
    return path.with_suffix(".about.json")
