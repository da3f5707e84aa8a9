"""A copy of a command's console output in its folder, `console.log`, which `medray logs` prints.

The file is written once this process has claimed the folder and written config.yaml (predictions: manifest.json): a
start that is refused before that leaves nothing. Each start begins with a line that has its date and its command. In a folder, every line is appended at once. In a bucket, where objects cannot grow, the
newest part is uploaded every few seconds. An error in writing the log never stops the run.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.report.console import Console
from medray.storage import StoragePath

FILE = "console.log"
BUCKET_SECONDS = 10.0
LARGEST = 4 << 20  # bytes; then a new file begins, and the old one is renamed to console.log.1
KEPT_IN_BUCKET = 1 << 20  # characters


class RunLog:
    """A text stream that keeps text in memory until `begin`, and then writes it to the console.log of a folder.

    command: named in the line that begins this start; "" for no such line. mark: the file of the folder that must exist
    before the log is written.
    """

    def __init__(
        self,
        folder: StoragePath,
        bucket_seconds: float = BUCKET_SECONDS,
        *,
        command: str = "",
        mark: str = "config.yaml",
    ) -> None:
        self._folder, self._begun, self._mark = folder, False, mark
        self._text = f"=== {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {command}\n" if command else ""
        self._pause, self._ended = bucket_seconds, threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to write console.log. Call this when this process owns the run folder."""
        self._begun = True
        if not isinstance(self._folder, Path):
            self._thread = threading.Thread(target=self._put, args=(self._folder,), daemon=True)
            self._thread.start()

    def write(self, text: str) -> None:
        self._text = (self._text + text)[-KEPT_IN_BUCKET:]
        if self._begun and isinstance(self._folder, Path):
            with suppress(OSError):
                self._append(self._folder)

    def flush(self) -> None:
        """Do nothing, because lines are written at once."""

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join(2 * storage.REQUEST_SECONDS)

    def _append(self, folder: Path) -> None:
        file = folder / FILE
        if not (folder / self._mark).exists() or file.is_symlink():
            return
        if file.exists() and (not file.is_file() or file.stat().st_size > LARGEST):
            os.replace(file, folder / f"{FILE}.1")
        storage.append(file, self._text)
        self._text = ""

    def _put(self, folder: StoragePath) -> None:
        """Upload the log: the lines of earlier starts, which are read once, then the lines of this start."""
        before, put = None, ""
        ended = False
        while not ended:
            ended = self._ended.wait(self._pause)
            text = self._text
            with suppress(OSError):
                if text == put or not (before is not None or (folder / self._mark).exists()):
                    continue
                if before is None:
                    before = _old(folder)
                storage.write(folder / FILE, (before + text)[-KEPT_IN_BUCKET:])
                put = text


def _old(folder: StoragePath) -> str:
    try:
        return storage.read_bounded(folder / FILE, LARGEST).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except InputError:  # too large, or not a file that medray wrote
        return ""


class Consoles:
    """Several consoles used as one, such as the terminal and the run's log."""

    def __init__(self, *consoles: Console) -> None:
        self._consoles = consoles

    def phase(self, name: str, detail: str = "") -> None:
        for console in self._consoles:
            console.phase(name, detail)

    def show(self, record: dict[str, Any], *, total_steps: int) -> None:
        for console in self._consoles:
            console.show(record, total_steps=total_steps)

    def heartbeat(self) -> None:
        for console in self._consoles:
            console.heartbeat()

    def table(self, title: str, rows: list[tuple[str, ...]]) -> None:
        for console in self._consoles:
            console.table(title, rows)

    def progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        for console in self._consoles:
            console.progress(name, done, total, detail)
