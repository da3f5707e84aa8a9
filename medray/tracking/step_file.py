"""A JSON-lines file with one record a step, in the order of steps, that survives a kill in the middle of a write.

Appending is the ordinary way: one line, handed to the operating system. Everything else (cutting back to a checkpoint,
replacing a step that is already there, dropping a torn last line) writes a new file beside the old one and renames it,
so a reader sees either the old lines or the new ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The readable records of a JSON-lines file in the order of steps, the last one where a step is there twice."""
    return _parse(path)[0]


def _parse(path: Path) -> tuple[list[Record], bool, int]:
    """Records by step; whether the file holds exactly those, complete and in order; and how many lines are unreadable."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return [], True, 0
    lines = text.split("\n")
    clean, unreadable = lines.pop() == "", 0
    if not clean:
        unreadable += 1
    records: dict[int, Record] = {}
    last = -1
    for line in lines:
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, TypeError, KeyError):
            clean, unreadable = False, unreadable + 1
            continue
        clean, last = clean and step > last, max(step, last)
        records[step] = record
    return [records[step] for step in sorted(records)], clean, unreadable


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, default=float) + "\n"


class StepFile:
    """Records keyed by `step` in a file.

    merge: what to keep when a step comes again, from the record that is there and the new one; default: the new one.
    """

    def __init__(self, path: Path, merge: Callable[[Record, Record], Record] | None = None) -> None:
        self.path = path
        self._merge = merge or (lambda old, new: new)
        records, clean, self.unreadable = _parse(path)
        if not clean:
            self._rewrite(records)
        self._last = int(records[-1]["step"]) if records else -1

    def records(self) -> list[Record]:
        """All records, in the order of steps."""
        return read_records(self.path)

    def cut(self, last_step: int) -> None:
        """Keep the records with step <= last_step."""
        if self._last > last_step:
            self._rewrite([record for record in self.records() if record["step"] <= last_step])

    def put(self, record: Record) -> None:
        """Append the record, or put it in its place when its step is not above the last one.

        Raises OSError when the file cannot be written.
        """
        step = int(record["step"])
        if step <= self._last:
            records = {int(old["step"]): old for old in self.records()}
            records[step] = self._merge(records[step], record) if step in records else record
            self._rewrite([records[key] for key in sorted(records)])
            return
        # Opened for each line: 30 microseconds, and whoever reads over a network file system sees closed files only.
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(_line(record))
        self._last = step

    def sync(self) -> None:
        """Put what was written on the disk. Raises OSError."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def _rewrite(self, records: list[Record]) -> None:
        beside = self.path.with_name(self.path.name + ".tmp")
        with beside.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(_line(record) for record in records)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(self.path)
        self._last = int(records[-1]["step"]) if records else -1
