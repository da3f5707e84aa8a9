"""The ways to stop a run: a signal, or a request through a file in its folder.

Imports nothing heavy, because signals must be handled before Ray and torch are imported.
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
FOLDER_SECONDS, BUCKET_SECONDS = 2.0, 10.0  # between two checks for the file
LARGEST_FILE = 4096  # bytes
ON_REQUEST = 76  # exit code: whatever started the run must not start it again by itself
_SIGNAL_CODES = {2: 130, 15: 75, 10: 75}  # SIGINT, SIGTERM, SIGUSR1


class StopSwitch:
    """The switch that stops a run. The driver passes it on to the ledger, and rank 0 reads it there.

    signal: number of the last signal, 0 if there was none. on_request: whether the stop file asks for a stop.
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
        """Return the exit code of a stopped run. A request takes precedence: whoever asked wants no automatic restart."""
        return ON_REQUEST if self.on_request else _SIGNAL_CODES.get(self.signal, 1)


def ask(folder: StoragePath, now: float | None = None) -> StoragePath:
    """Ask the run of `folder` to save and end, wherever it runs. Returns the file.

    Raises InputError if a file of that name is not a request of medray, and OSError as `storage.write` does.
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
    """Return when a stop was asked for, in seconds since the epoch and not later than now; None if it was not.

    An empty file, which a user made with `touch`, counts from when it was written. Any other file of that name is not a
    request. Raises OSError if storage cannot be reached.
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
        return min(float(json.loads(text)["time"]), now)  # the clock of whoever asked may be ahead
    return None


def begin(folder: StoragePath, launched_at: float | None) -> float | None:
    """Return when a stop was asked for that applies to this start, else None.

    launched_at: when a launcher submitted this start, in seconds since the epoch. A request made later, while the start
    waited in a queue, applies. None: a start by hand, to which no request applies. A request that does not apply is
    removed. Raises OSError if storage cannot be reached.
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
    """Check for the file repeatedly in a side thread, whatever the driver waits for, and set `switch` if it exists."""
    pause = seconds or (FOLDER_SECONDS if isinstance(folder, Path) else BUCKET_SECONDS)
    ended = threading.Event()

    def look() -> None:
        while not switch.on_request and not ended.wait(pause):
            with suppress(OSError):  # storage may be unreachable for a while
                # Never back to False: a stage's run and the whole are watched for one switch.
                if asked_at(folder) is not None:
                    switch.on_request = True

    thread = threading.Thread(target=look, name="stop-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()  # not joined: a look may hang with its file system
