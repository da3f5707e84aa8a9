"""That a run shall stop: by a signal, or on request through a file in its folder.

Imports nothing heavy: signals are heard before Ray and torch are imported.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medray.storage import StoragePath

FILE = "stop"
FOLDER_SECONDS, BUCKET_SECONDS = 2.0, 10.0  # between two looks
LARGEST_FILE = 4096  # bytes
ON_REQUEST = 76  # exit code: do not run me again by yourself
_SIGNAL_CODES = {2: 130, 15: 75, 10: 75}  # SIGINT, SIGTERM, SIGUSR1


class StopSwitch:
    """The driver passes it on to the ledger, and rank 0 reads it there.

    signal: the last one, 0 until there was one. on_request: whether the stop file asks for it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.on_request = False

    def request(self, signal: int) -> None:
        self.signal = signal

    @property
    def reason(self) -> str | None:
        if self.on_request:
            return "request"
        return f"signal {self.signal}" if self.signal else None

    @property
    def exit_code(self) -> int:
        """Of a run that has stopped. A request wins: whoever asked does not want the run to be started again."""
        return ON_REQUEST if self.on_request else _SIGNAL_CODES.get(self.signal, 1)


def ask(folder: StoragePath, now: float | None = None) -> StoragePath:
    """Ask the run of `folder` to save and end, wherever it runs. Returns the file.

    Raises InputError where a file of that name is not a request of medray, OSError as `storage.write`.
    """
    from medray import storage
    from medray.errors import InputError

    file = folder / FILE
    if file.exists() and asked_at(folder) is None:
        raise InputError(
            "is not a request to stop", file=file, fix="move it away, or name the folder of a run"
        )
    storage.write(file, json.dumps({"time": time.time() if now is None else now}) + "\n")
    return file


def asked_at(folder: StoragePath) -> float | None:
    """When a stop was asked for, in seconds since the epoch and not later than now; None where it was not.

    An empty file, which a hand made by touch, counts from when it was written. Any other file of that name is no request.
    Raises OSError where storage cannot be asked.
    """
    from medray import storage
    from medray.errors import InputError

    file, now = folder / FILE, time.time()
    try:
        text = storage.read_bounded(file, LARGEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InputError:  # a folder, a pipe, a large file
        return None
    if not text.strip():
        return min(file.stat().st_mtime, now) if isinstance(file, Path) else now
    with suppress(ValueError, LookupError, TypeError):
        return min(float(json.loads(text)["time"]), now)  # the clock of who asked may be ahead
    return None


def begin(folder: StoragePath, launched_at: float | None) -> float | None:
    """When a stop was asked for that holds for this start, else None.

    launched_at: seconds since the epoch when a launcher submitted it: what was asked later, while it waited in a queue,
    holds. None for a start by hand, for which nothing does. What does not hold is removed.
    Raises OSError where storage cannot be asked.
    """
    asked = asked_at(folder)
    if asked is None:
        return None
    if launched_at is not None and asked > launched_at:
        return asked
    (folder / FILE).unlink(missing_ok=True)
    return None


@contextmanager
def watching(folder: StoragePath, switch: StopSwitch, seconds: float | None = None) -> Iterator[None]:
    """Looks for the file again and again, beside whatever the driver waits for, and sets `switch`."""
    pause = seconds or (FOLDER_SECONDS if isinstance(folder, Path) else BUCKET_SECONDS)
    ended = threading.Event()

    def look() -> None:
        while not switch.on_request and not ended.wait(pause):
            with suppress(OSError):  # storage that is away for a while
                switch.on_request = asked_at(folder) is not None

    thread = threading.Thread(target=look, name="stop-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()  # not joined: a look may hang with its file system
