"""The state of a synthesis: every reply, keyed by (id, step, attempt).

Memory holds the outcome of each step and where its text is; texts stay in the files. So the state of 600,000 replies needs
some tens of megabytes, and a start reads only the heads of the lines.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath
from medray.synth.asking.part_files import MOST_PARTS, PartFiles
from medray.synth.asking.steps import COLUMN, STEPS, Key

FOLDER = "state"
OK, REJECTED, ERROR = "ok", "rejected", "error"
_TEXT = b',"text":'
_WIDTH = len(STEPS)
_SYNC_SECONDS = 5.0  # between uploads to a bucket


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One reply, or one failure to get it.

    status: ok, rejected or error. reason: why it was not accepted. prompt_hash: of the messages that were sent; "" if the
    reply was imported. cost: None without prices.
    """

    key: Key
    status: str
    text: str = ""
    reason: str = ""
    backend: str = ""
    model: str = ""
    finish_reason: str = ""
    prompt_hash: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    retries: int = 0

    def line(self) -> bytes:
        head = {
            "id": self.key.id,
            "step": self.key.step,
            "attempt": self.key.attempt,
            "status": self.status,
            "reason": self.reason,
            "backend": self.backend,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "prompt_hash": self.prompt_hash,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "retries": self.retries,
            "time": int(time.time()),
        }
        return orjson.dumps(head)[:-1] + _TEXT + orjson.dumps(self.text) + b"}\n"


@dataclass
class Tokens:
    """Sums over the accepted replies of one kind of step, for the estimate of what is left."""

    replies: int = 0
    completion: int = 0


class Store:
    """The state in a folder. Only the holder of the folder's lock may call `add`."""

    def __init__(self, folder: StoragePath) -> None:
        storage.make_private(folder / FOLDER)
        self._folder = folder
        self._load()

    def _load(self) -> None:
        self._files = PartFiles(self._folder / FOLDER)
        self._rows: dict[str, int] = {}
        self._done = array("B")  # 1 for each (id, step) with an accepted reply
        self._attempts = array("B")
        self._file = array("i")
        self._offset = array("q")
        self._length = array("i")
        self.counts: Counter[tuple[str, str, str]] = Counter()  # (step, status, reason)
        self.last_reason: dict[tuple[str, str], str] = {}
        self.cost = 0.0
        self.tokens = {kind: Tokens() for kind in "quc"}
        self._synced = time.monotonic()
        for file, offset, line in self._files.lines():
            cut = line.find(_TEXT)
            try:
                head = orjson.loads(line[:cut] + b"}")
                self._count(head, file, offset + cut + len(_TEXT), len(line) - cut - len(_TEXT) - 2)
            except (orjson.JSONDecodeError, LookupError, TypeError):
                raise InputError(
                    f"the line at byte {offset} is not a reply",
                    file=self._folder / FOLDER,
                    key=f"file {file}",
                    fix="restore the file from a copy, or use another run.name",
                ) from None

    def _row(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = len(self._rows)
            self._done.frombytes(bytes(_WIDTH))
            self._attempts.frombytes(bytes(_WIDTH))
            self._file.frombytes(bytes(_WIDTH * self._file.itemsize))
            self._offset.frombytes(bytes(_WIDTH * self._offset.itemsize))
            self._length.frombytes(bytes(_WIDTH * self._length.itemsize))
        return row

    def _count(self, head: dict[str, Any], file: int, offset: int, length: int) -> None:
        step, status, attempt = head["step"], head["status"], head["attempt"]
        cell = self._row(head["id"]) * _WIDTH + COLUMN[step]
        if self._done[cell] or attempt < self._attempts[cell]:
            return  # a repeated reply
        self._attempts[cell] = attempt + 1 if attempt < 255 else 255
        self.counts[step, status, head["reason"]] += 1
        self.cost += head["cost"] or 0.0
        if status == OK:
            self._done[cell], self._file[cell] = 1, file
            self._offset[cell], self._length[cell] = offset, length
            if attempt:
                self.last_reason.pop((head["id"], step), None)
            tokens = self.tokens[step[-1]]
            tokens.replies += 1
            tokens.completion += head["completion_tokens"] or length // 4
        else:
            self.last_reason[head["id"], step] = head["reason"]

    def is_done(self, name: str, step: str) -> bool:
        row = self._rows.get(name)
        return row is not None and self._done[row * _WIDTH + COLUMN[step]] == 1

    def attempts(self, name: str, step: str) -> int:
        """Return the number of replies to a request that were recorded, accepted or not."""
        row = self._rows.get(name)
        return 0 if row is None else self._attempts[row * _WIDTH + COLUMN[step]]

    def text(self, name: str, step: str) -> str:
        """Return the accepted reply. Raises KeyError if there is none."""
        if not self.is_done(name, step):
            raise KeyError((name, step))
        cell = self._rows[name] * _WIDTH + COLUMN[step]
        found = self._files.read(self._file[cell], self._offset[cell], self._length[cell])
        return str(orjson.loads(found))

    def add(self, record: Record) -> bool:
        """Record a reply, and return whether it was new. A reply of an earlier attempt changes nothing."""
        key = record.key
        if self.is_done(key.id, key.step) or key.attempt < self.attempts(key.id, key.step):
            return False
        line = record.line()
        cut = line.index(_TEXT)
        file, offset = self._files.append(line)
        head = orjson.loads(line[:cut] + b"}")
        self._count(head, file, offset + cut + len(_TEXT), len(line) - cut - len(_TEXT) - 2)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()
        return True

    def sync(self) -> None:
        self._files.sync()
        self._synced = time.monotonic()

    def compact_if_many(self) -> None:
        """Replace the files by one if there are many."""
        if len(self._files) > MOST_PARTS:
            self.compact()

    def compact(self) -> None:
        self._files.replace(line for _, _, line in self._files.lines())
        self._load()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every recorded reply with its text, accepted or not, in the order of arrival."""
        for _, _, line in self._files.lines():
            yield orjson.loads(line)

    def close(self) -> None:
        self._files.close()
