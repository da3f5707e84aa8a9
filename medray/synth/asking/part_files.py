"""The files of the state: append-only parts, and one file that replaces many of them.

`part-N.jsonl` is written by one start and never changed afterwards. `upto-N.jsonl` contains what the parts up to N contain;
it is written as a whole before they are removed, so that a kill at any moment loses nothing. A last line without a line end
was cut off by a kill and is ignored. Files of a bucket are read and written through a local copy.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from medray import storage
from medray.storage import StoragePath

MOST_PARTS = 16  # more are replaced by one file at the next start
_NAME = re.compile(r"(part|upto)-(\d{6})\.jsonl")


class PartFiles:
    """The files of one folder, in the order in which they were written.

    Only the holder of the folder's lock may append. A reader sees all lines that were complete when it opened the folder.
    """

    def __init__(self, folder: StoragePath) -> None:
        self.folder = folder
        self._bucket = not isinstance(folder, Path)
        self.local = storage.temporary_folder() if self._bucket else Path(str(folder))
        self._open: dict[int, int] = {}  # number of a file -> descriptor
        self._names: list[str] = []
        self._appending: int | None = None
        self._end = 0
        self._unsent = False
        self._load()

    def _load(self) -> None:
        found = {name: _NAME.fullmatch(name) for name in storage.sizes(self.folder)}
        numbered = sorted((int(match[2]), match[1], name) for name, match in found.items() if match)
        base = max((number for number, kind, _ in numbered if kind == "upto"), default=-1)
        for number, kind, name in numbered:
            if (kind == "upto" and number == base) or (kind == "part" and number > base):
                if self._bucket:
                    shutil.copyfile(storage.local(self.folder / name), self.local / name)
                self._names.append(name)
        self._last = max((number for number, _, _ in numbered), default=-1)

    def __len__(self) -> int:
        return len(self._names)

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number of the file, offset in bytes, line) of every complete line."""
        for number, name in enumerate(self._names):
            offset = 0
            with open(self.local / name, "rb", buffering=1 << 20) as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        yield number, offset, line
                    offset += len(line)

    def read(self, file: int, offset: int, length: int) -> bytes:
        if file not in self._open:
            self._open[file] = os.open(self.local / self._names[file], os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._open[file], length, offset)

    def append(self, line: bytes) -> tuple[int, int]:
        """Write a line, which ends with a line end, and return (number of its file, offset)."""
        if self._appending is None:
            self._last += 1
            name = f"part-{self._last:06d}.jsonl"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._names.append(name)
            self._appending, self._end = len(self._names) - 1, 0
            self._open[self._appending] = os.open(self.local / name, flags, 0o600)
        begin, left = self._end, memoryview(line)
        while left:
            left = left[os.write(self._open[self._appending], left) :]
        self._end += len(line)
        self._unsent = True
        return self._appending, begin

    def sync(self) -> None:
        """Send what was appended to a bucket. The next line begins another part."""
        if self._bucket and self._unsent and self._appending is not None:
            name = self._names[self._appending]
            storage.put_file(self.local / name, self.folder / name)  # type: ignore[arg-type]
            self._appending = None
        self._unsent = False

    def replace(self, lines: Iterator[bytes]) -> None:
        """Replace all files by one with these lines."""
        self.close()
        name = f"upto-{max(self._last, 0):06d}.jsonl"
        staging = self.local / f".{name}.{os.getpid()}"
        with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            for line in lines:
                stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(self.local / name)
        if self._bucket:
            storage.put_file(self.local / name, self.folder / name)  # type: ignore[arg-type]
        for old in [each for each in self._names if each != name]:
            (self.folder / old).unlink()
        self._names, self._appending = [name], None

    def close(self) -> None:
        self.sync()
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open, self._appending = {}, None
