"""Storage in a local or shared folder: writes that a reader sees as a whole, for the owner alone."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

PRIVATE = 0o700


def write(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a file under another name and rename it. durable: after a power cut too."""
    staging = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(staging, "wb", opener=_private) as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def append(path: Path, data: bytes) -> None:
    """Add lines to a file. A last line that was cut off stays a line of its own."""
    with open(path, "ab+", opener=_private) as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            data = data if stream.read() == b"\n" else b"\n" + data
        stream.write(data)


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of `folder` itself, by name; empty where there is no such folder."""
    try:
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(PRIVATE)


def put_tree(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(str(source), target)


def temporary_folder() -> Path:
    """Make a private folder of this process on its machine, removed when the process ends in order."""
    folder = Path(tempfile.mkdtemp(prefix="medray-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe: an `opener` of `open`."""
    return os.open(path, flags | os.O_NONBLOCK)


def _private(path: str, flags: int) -> int:
    """Open a file for its owner alone: what a run writes contains patients' text."""
    return os.open(path, flags, 0o600)
