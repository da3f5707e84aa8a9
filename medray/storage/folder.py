"""Storage in a local or shared folder: atomic writes of files that only their owner may read."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

PRIVATE = 0o700


def write(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a temporary file and rename it, so that readers never see half a file.

    durable: also flush to disk, so that the file survives a power cut.
    """
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
    """Append lines to a file. If its last line was cut off, the new text starts on a new line."""
    with open(path, "ab+", opener=_private) as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            data = data if stream.read() == b"\n" else b"\n" + data
        stream.write(data)


def sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file directly in `folder`, by name; empty if the folder does not exist."""
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
    """Create a private temporary folder for this process. It is removed when the process exits normally."""
    folder = Path(tempfile.mkdtemp(prefix="medray-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking on a pipe that nobody writes to. Pass this function as `opener` to `open`."""
    return os.open(path, flags | os.O_NONBLOCK)


def _private(path: str, flags: int) -> int:
    """Open a file for its owner alone: what a run writes contains patients' text."""
    return os.open(path, flags, 0o600)
