"""The state of a review: an append-only file of verdicts, written by several processes at once under a lock.

A line is the verdict of a judge on an item, or of a person. Nothing is ever changed in the file; of two lines about the same
thing, the later one counts. So whoever is killed loses at most the line that was being written.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError

FILE = "verdicts.jsonl"
FIX = "restore the file from a copy, or name another folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict of a judge on an item.

    asked: hash of the prompt, the model and the settings; a verdict is used again only where it is the same. verdict: None if
    no reply was readable. tries: replies until it was. cost: of all tries.
    """

    item: str
    judge: str
    asked: str
    verdict: str | None
    reason: str = ""
    model: str = ""
    tries: int = 1
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """The verdict of a person on an item. content: hash of the item's texts. source: review, or the name of a queue file."""

    item: str
    content: str
    human_verdict: str
    note: str = ""
    source: str = ""
    at: float = field(default_factory=time.time)


class State:
    """The verdicts in a folder. `refresh` reads what other processes have added."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.judged: dict[tuple[str, str], Judged] = {}
        self.decided: dict[tuple[str, str], Decided] = {}
        self.changed = 0  # decisions of people that replaced a different one
        self.cost = 0.0
        self._read = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that were added since the last call. A last line without its end is left for later."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self._read)
                data = stream.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.split(b"\n"):
            if line.strip():
                self._take(line)
        self._read += len(whole)

    def _take(self, line: bytes) -> None:
        try:
            found: Any = json.loads(line)
            if "human_verdict" in found:
                self._decide(Decided(**found))
            elif "uncertain_cost" in found:
                self.cost += float(found["uncertain_cost"])
            else:
                judged = Judged(**found)
                self.judged[judged.item, judged.judge] = judged
                self.cost += float(judged.cost)
        except (ValueError, TypeError, RecursionError):
            # A line that was cut off by a full disk or a power failure is followed by a whole one: what it said is lost.
            if not line.rstrip().endswith(b"}"):
                return
            raise InputError("contains a line that medray did not write", file=self.path, fix=FIX) from None

    def _decide(self, decided: Decided) -> None:
        key = decided.item, decided.content
        before = self.decided.get(key)
        self.changed += before is not None and before.human_verdict != decided.human_verdict
        self.decided[key] = decided

    def add(self, *lines: Judged | Decided | Mapping[str, Any]) -> None:
        """Append lines and remember them. People's decisions are flushed to the disk."""
        rows = [dict(line) if isinstance(line, Mapping) else asdict(line) for line in lines]
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with locked(self.path) as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                data = data if stream.read(1) == b"\n" else "\n" + data
            stream.write(data.encode("utf-8", "surrogatepass"))
            stream.flush()
            if any(isinstance(line, Decided) for line in lines):
                os.fsync(stream.fileno())
        self.refresh()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[Any]:
    """Open a file for appending, readable by its owner only, and hold its lock until the block ends.

    wait: False raises BlockingIOError if another process holds the lock. Raises InputError if it cannot be written.
    """
    try:
        stream = open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"cannot be written ({storage.summary(error)})", file=path, fix="use a folder that you may write"
        ) from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield stream
