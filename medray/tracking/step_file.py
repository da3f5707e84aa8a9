"""A JSON-lines file with one record a step, in the order of steps, that survives kills and a full disk.

Appending is the ordinary way: one line, handed to the operating system. Cutting back to a checkpoint shortens the file.
Everything else (replacing a step that is already there, dropping what is unreadable) writes a new file beside the old one
and renames it, so a reader sees either the old lines or the new ones. An object cannot be appended to: of a run on S3 the file
is one of this machine, fetched when it is opened and sent as a whole by each `sync`. What cannot be written now is held in memory, in order, and is
written before anything that comes later; half a line that a full disk left is cut off first.
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


# Keys that others compute with.
_NUMBERS = ("loss", "seconds", "data_wait_seconds", "tokens", "computed_tokens", "samples", "epoch", "lr")


def read_records(path: StoragePath) -> list[Record]:
    """The readable records of a JSON-lines file in the order of steps, the last one where a step is there twice.

    Raises InputError for what is no file of lines, OSError where it cannot be read now.
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
    """Records by step; whether the file holds exactly those, complete and in order; and how many lines are unreadable."""
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
    """Records keyed by `step` in a file.

    path: of the file; for an object, of the file of this machine in its place, and `stored` is the object.
    merge: what to keep when a step comes again, from the record that is there and the new one; default: the new one.
    unreadable: lines of the file as it was found that could not be read.

    `put`, `cut` and `write` raise OSError when the file cannot be written; nothing is lost by that: what was asked is
    done, in order, by the next call of any of them that can write.
    """

    def __init__(self, path: StoragePath, merge: Callable[[Record, Record], Record] | None = None) -> None:
        self.stored = None if isinstance(path, Path) else path
        self.path = path if isinstance(path, Path) else storage.temporary_folder() / path.name
        self.unreadable = 0
        self._fetched = self._sent = self.stored is None
        self._merge = merge or (lambda old, new: new)
        self._waiting: list[Record] = []
        self._cut_to: int | None = None  # a cut that is still to be done
        self._ready = False  # whether the file has been read, and what was broken in it mended
        self._steps: set[int] = set()  # in the file
        self._last, self._size = -1, 0
        with suppress(OSError):
            self._prepare()

    @property
    def pending(self) -> int:
        """Records that are not in the file yet."""
        return len(self._waiting)

    def __contains__(self, step: int) -> bool:
        return step in self._steps or any(int(record["step"]) == step for record in self._waiting)

    def records(self) -> list[Record]:
        """All records in the order of steps, those that wait included. Raises OSError when the file cannot be read."""
        waiting = list(self._waiting)  # first: another thread may be moving them into the file
        kept = read_records(self.path)
        if self._cut_to is not None:
            kept = [record for record in kept if record["step"] <= self._cut_to]
        return self._merged(kept, waiting)

    def cut(self, last_step: int) -> None:
        """Keep the records with step <= last_step."""
        self._waiting = [record for record in self._waiting if int(record["step"]) <= last_step]
        self._cut_to = last_step if self._cut_to is None else min(self._cut_to, last_step)
        self.write()

    def put(self, *records: Record) -> None:
        """Append the records, or put them in their place where a step is not above the last one."""
        self._waiting.extend(records)
        self.write()

    def write(self) -> None:
        """Do what could not be done before. Cheap when there is nothing."""
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
        """`write`, and put it on the disk, or to storage. Raises OSError."""
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
        except InputError as error:  # tried again, as what storage refuses
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
        # Opened for each line: 30 microseconds, and whoever reads over a network file system sees closed files only.
        self._sent = False
        with self.path.open("ab", buffering=0) as stream:
            if stream.tell() > self._size:
                stream.truncate(self._size)  # half a line, from a write that failed
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
        """Shortens the file in its place, which a full disk allows."""
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
        beside, self._sent = self.path.with_name(self.path.name + ".tmp"), False
        try:
            with beside.open("wb") as stream:
                stream.writelines(_line(record) for record in records)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
            beside.replace(self.path)
        except OSError:
            with suppress(OSError):
                beside.unlink()  # a full disk needs the room
            raise
        self._know(records, size)


class SteadyClock:
    """A clock that is set by hand or by NTP in the middle of a run changes neither order nor distances of time stamps."""

    def __init__(self) -> None:
        # Before 1970, a clock without a battery: MLflow refuses negative time stamps.
        self._start = max(time.time(), 0.0) - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._start + time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.now() * 1000)
