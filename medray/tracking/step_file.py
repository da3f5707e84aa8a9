"""A JSON-lines file with one record per step, sorted by step, that survives kills and a full disk.

Usually a record is appended as one line. Cutting the file back to a checkpoint shortens it. All other changes
(replacing a step, dropping unreadable lines) write a new file in the same folder and rename it, so a reader sees
either the old lines or the new ones. Objects in a bucket cannot be appended to: for a run on S3, the file is a local
copy, which is downloaded when it is opened and uploaded as a whole by each `sync`. Records that cannot be written are
kept in memory, in order, and are written before any later record; half a line that a full disk left is cut off first.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.storage.json_files import is_count, is_number

Record = dict[str, Any]


# Keys that other code computes with.
_NUMBERS = ("loss", "seconds", "data_wait_seconds", "tokens", "computed_tokens", "samples", "epoch", "lr")


def read_records(path: StoragePath) -> list[Record]:
    """Return the readable records of a JSON-lines file, sorted by step. If a step is repeated, the last record counts.

    Raises InputError if this is not a JSON-lines file, OSError if it cannot be read now.
    """
    return _parse(path)[0]


def _is_record(record: Record) -> bool:
    metrics = record.get("metrics", {})
    return (
        is_count(record.get("step"))
        and isinstance(metrics, dict)
        and all(value is None or is_number(value) for value in metrics.values())
        and all(record.get(name) is None or is_number(record[name]) for name in _NUMBERS)
    )


def _parse(path: StoragePath) -> tuple[list[Record], bool, int]:
    """Return the records by step, whether the file holds exactly these in order, and the number of unreadable lines."""
    try:
        lines = json_files.read_lines(path)
    except FileNotFoundError:
        return [], True, 0
    unreadable = lines.unreadable
    clean = not unreadable
    records: dict[int, Record] = {}
    last = -1
    for record in lines.records:
        if not _is_record(record):
            clean, unreadable = False, unreadable + 1
            continue
        step = record["step"]
        clean, last = clean and step > last, max(step, last)
        records[step] = record
    return [records[step] for step in sorted(records)], clean, unreadable


def _line(record: Record) -> bytes:
    return (json.dumps(record, ensure_ascii=False, default=float) + "\n").encode()


class StepFile:
    """A JSON-lines file of records with the key `step`, for reading and writing.

    path: the local file; for a run in a bucket, the local copy of the object `stored`.
    merge: function of the old and the new record of a repeated step that returns the record to keep; default: the new
    one.
    unreadable: number of lines that could not be read when the file was opened.

    `put`, `cut` and `write` raise OSError if the file cannot be written. Nothing is lost: the next successful call of
    any of them catches up, in order.
    """

    def __init__(self, path: StoragePath, merge: Callable[[Record, Record], Record] | None = None) -> None:
        self.stored = None if isinstance(path, Path) else path
        self.path = path if isinstance(path, Path) else storage.temporary_folder() / path.name
        self.unreadable = 0
        self._fetched = self._sent = self.stored is None
        self._merge = merge or (lambda old, new: new)
        self._waiting: list[Record] = []
        self._cut_to: int | None = None  # a cut that has not been done yet
        self._ready = False  # whether the file has been read and repaired
        self._steps: set[int] = set()  # steps in the file
        self._last, self._size = -1, 0
        with suppress(OSError):
            self._prepare()

    @property
    def pending(self) -> int:
        """Return the number of records that are not written to the file yet."""
        return len(self._waiting)

    def __contains__(self, step: int) -> bool:
        return step in self._steps or any(int(record["step"]) == step for record in self._waiting)

    def records(self) -> list[Record]:
        """Return all records sorted by step, including those not written yet. Raises OSError if the file is unreadable."""
        waiting = list(self._waiting)  # read before the file: another thread may be moving them into it
        kept = read_records(self.path)
        if self._cut_to is not None:
            kept = [record for record in kept if record["step"] <= self._cut_to]
        return self._merged(kept, waiting)

    def cut(self, last_step: int) -> None:
        """Remove the records of all steps after `last_step`."""
        self._waiting = [record for record in self._waiting if int(record["step"]) <= last_step]
        self._cut_to = last_step if self._cut_to is None else min(self._cut_to, last_step)
        self.write()

    def put(self, *records: Record) -> None:
        """Add records. A record whose step is not above the last one is inserted, or replaces the record of its step."""
        self._waiting.extend(records)
        self.write()

    def write(self) -> None:
        """Retry the writes and the cut that failed before. This is cheap if nothing failed."""
        if not self._ready:
            self._prepare()
        if self._cut_to is not None:
            self._cut(self._cut_to)
            self._cut_to = None
        steps = [self._last, *(int(record["step"]) for record in self._waiting)]
        if any(after <= before for before, after in pairwise(steps)):
            old = read_records(self.path)
            new = self._merged(old, self._waiting)
            if new != old:
                self._rewrite(new)
            self._waiting.clear()
        while self._waiting:
            self._append(self._waiting[0])
            del self._waiting[0]

    def sync(self) -> None:
        """Write everything and flush it to disk, or upload it to the bucket. Raises OSError if that fails."""
        self.write()
        if self.stored is not None:
            if not self._sent and self.path.exists():
                storage.write(self.stored, self.path.read_bytes())
                self._sent = True
        elif self.path.exists():
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def _prepare(self) -> None:
        if not self._fetched:
            assert self.stored is not None
            with suppress(FileNotFoundError):
                storage.write(self.path, self.stored.read_bytes())
            self._fetched = self._sent = True
        try:
            records, clean, unreadable = _parse(self.path)
        except InputError as error:  # an OSError is retried, as any error of storage
            raise OSError(errno.EINVAL, error.what) from None
        self.unreadable = max(self.unreadable, unreadable)
        if clean:
            self._know(records, self.path.stat().st_size if self.path.exists() else 0)
        else:
            self._rewrite(records)
        self._ready = True

    def _know(self, records: list[Record], size: int) -> None:
        self._steps = {int(record["step"]) for record in records}
        self._last, self._size = max(self._steps, default=-1), size

    def _merged(self, old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
        records = {int(record["step"]): record for record in old}
        for record in new:
            step = int(record["step"])
            records[step] = self._merge(records[step], record) if step in records else record
        return [records[step] for step in sorted(records)]

    def _append(self, record: Record) -> None:
        step, line = int(record["step"]), _line(record)
        # Opening the file for each line costs 30 microseconds; readers on a network file system see closed files only.
        self._sent = False
        with self.path.open("ab", buffering=0) as stream:
            if stream.tell() > self._size:
                stream.truncate(self._size)  # cut off half a line of a failed write
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError:
                with suppress(OSError):
                    stream.truncate(self._size)
                raise
        self._steps.add(step)
        self._last, self._size = step, self._size + len(line)

    def _cut(self, last_step: int) -> None:
        """Shorten the file itself, which works on a full disk."""
        if self._last <= last_step:
            return
        kept: set[int] = set()
        size, self._sent = 0, False
        with self.path.open("r+b") as stream:
            for line in stream:
                step = int(json.loads(line)["step"])
                if step > last_step:
                    break
                kept.add(step)
                size += len(line)
            stream.truncate(size)
            os.fsync(stream.fileno())
        self._steps, self._last, self._size = kept, max(kept, default=-1), size

    def _rewrite(self, records: list[Record]) -> None:
        temporary, self._sent = self.path.with_name(self.path.name + ".tmp"), False
        try:
            with temporary.open("wb") as stream:
                stream.writelines(_line(record) for record in records)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
            temporary.replace(self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()  # free the space on a full disk
            raise
        self._know(records, size)


class SteadyClock:
    """A clock for timestamps that are always in order, even if the system's clock is changed during a run."""

    def __init__(self) -> None:
        # A clock without a battery may show a time before 1970, and MLflow refuses negative timestamps.
        self._start = max(time.time(), 0.0) - time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._start + time.monotonic()

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return int(self.now() * 1000)
