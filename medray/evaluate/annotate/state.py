"""The samples of a teacher that have arrived: an append-only file, so that a killed start loses requests in flight only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.evaluate.judge.state import locked

FILE = "samples.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One reply.

    item, number: the key of its item, and which of its samples it is, from 1. asked: a hash of the prompt, the model and
    the settings; a sample is used again only where it is the same.
    """

    item: str
    number: int
    asked: str
    text: str
    finish_reason: str
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float = 0.0


class Samples:
    """The samples in a folder. One process writes them, which holds the lock of the folder (`writing`)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.found: dict[tuple[str, int], Sample] = {}
        self.cost = 0.0
        self._end = 0  # bytes of whole lines; a kill or a full disk may have left a part of one after them
        try:
            with open(self.path, "rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    self._end += len(line)
                    self._take(line)
        except FileNotFoundError:
            return

    def _take(self, line: bytes) -> None:
        try:
            found: Any = json.loads(line)
            if "uncertain_cost" in found:
                self.cost += float(found["uncertain_cost"])
                return
            sample = Sample(**found)
            self.cost += float(sample.cost)
        except (ValueError, TypeError, RecursionError):
            raise InputError(
                "contains a line that medray did not write",
                file=self.path,
                fix="restore the file from a copy, or write to another file with --to",
            ) from None
        self.found[sample.item, sample.number] = sample

    def of(self, item: str, number: int, asked: str) -> Sample | None:
        """Return a sample, None if there is none that was asked for in the present way."""
        found = self.found.get((item, number))
        return found if found is not None and found.asked == asked else None

    def add(self, sample: Sample) -> None:
        self._append(asdict(sample))
        self.found[sample.item, sample.number] = sample
        self.cost += sample.cost

    def add_uncertain(self, cost: float) -> None:
        """Add what a server may have charged for replies that did not arrive."""
        self._append({"uncertain_cost": cost})
        self.cost += cost

    def _append(self, row: dict[str, Any]) -> None:
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            with open(handle, "wb") as stream:
                stream.truncate(self._end)
                stream.seek(self._end)
                stream.write(data)
        except OSError as error:
            raise InputError(
                f"cannot be written ({storage.summary(error)})",
                file=self.path,
                fix="write to a folder with space that you may write to, and run the command again",
            ) from None
        self._end += len(data)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raises InputError if another process holds it, or if the folder cannot be used."""
    with ExitStack() as stack:
        try:
            storage.make_private(folder)
            stack.enter_context(locked(folder / ".annotate.lock", wait=False))
        except BlockingIOError:
            raise InputError(
                "another medray data annotate is writing into this folder",
                file=folder,
                fix="wait for its end, or write to another file with --to",
            ) from None
        except OSError as error:
            raise InputError(
                f"cannot be created ({storage.summary(error)})",
                file=folder,
                fix="write to a folder that you may write to",
            ) from None
        yield
