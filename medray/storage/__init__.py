"""Storage of runs: one set of functions for local folders, shared folders and S3 buckets.

`at("runs")` is a pathlib.Path. `at("s3://bucket/prefix")` is an S3Path, which has the methods of pathlib that make
sense for objects in a bucket. The functions in this file hide what differs between the two; `folder` and `bucket`
implement the two halves.

All functions raise FileNotFoundError if a file does not exist, and another OSError if storage cannot be asked: a
server that does not answer is never reported as "does not exist".
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from medray.errors import InputError
from medray.storage import folder as _folder
from medray.storage.bucket import REQUEST_SECONDS, S3Path, put_file, s3_filesystem
from medray.storage.folder import temporary_folder

__all__ = [
    "COPY_AGAIN",
    "JSON_BYTES",
    "REQUEST_SECONDS",
    "S3Path",
    "StoragePath",
    "append",
    "at",
    "check_reachable",
    "is_remote",
    "local",
    "make_private",
    "move",
    "open_bounded",
    "parse_json",
    "put_file",
    "put_tree",
    "read_bounded",
    "read_json",
    "remove_tree",
    "s3_filesystem",
    "sizes",
    "summary",
    "temporary_folder",
    "unreachable",
    "write",
]

StoragePath = Path | S3Path

JSON_BYTES, JSON_DEPTH = 4 << 20, 64  # of a settings file that may come from anywhere
COPY_AGAIN = "copy or download it again"


def at(place: str | Path) -> StoragePath:
    """Return a path or s3:// URL as an object with pathlib's methods."""
    text = str(place)
    return S3Path(text.partition("://")[2]) if is_remote(text) else Path(text)


def is_remote(place: str) -> bool:
    return re.match(r"s3a?://", place) is not None


def check_reachable(path: StoragePath) -> None:
    """Check that storage answers. Raises InputError if it does not answer or refuses access."""
    if isinstance(path, S3Path):
        try:
            path.exists()
        except OSError as error:
            raise unreachable(path, error) from None


def unreachable(path: StoragePath, error: OSError) -> InputError:
    return InputError(
        f"this storage cannot be used ({summary(error)})",
        key="run.storage",
        value=str(path),
        fix="check the bucket's name, the network and the AWS_* credentials in the environment variables",
    )


def summary(error: Exception) -> str:
    """Return a short description of another library's error that is safe to show: the full text may quote a signed URL."""
    if known := re.search(r"AWS Error ([A-Z_]+)", str(error)):
        return known[1]
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return type(error).__name__


def write(path: StoragePath, content: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file atomically: a reader sees the whole new content or the whole old content.

    durable: also flush to disk, so that the file survives a power cut.
    """
    data: Any = content.encode() if isinstance(content, str) else content
    if isinstance(path, S3Path):
        path.write_bytes(data)
    else:
        _folder.write(path, data, durable=durable)


def append(path: StoragePath, text: str) -> None:
    """Append lines to a file that only this process writes. An object in a bucket is written again as a whole.

    If the last line was cut off by a full disk or a power failure, the new text starts on a new line.
    """
    if isinstance(path, S3Path):
        path.append(text.encode())
    else:
        _folder.append(path, text.encode())


def read_json(path: StoragePath, *, limit_bytes: int = JSON_BYTES, fix: str = COPY_AGAIN) -> dict[str, Any]:
    """Return the JSON object in an untrusted file. Raises the errors of `read_bounded` and `parse_json`."""
    found = parse_json(read_bounded(path, limit_bytes, fix=fix), path, fix=fix)
    if not isinstance(found, dict):
        raise InputError("is not a JSON object", file=path, fix=fix)
    return found


def read_bounded(path: StoragePath, limit_bytes: int, *, fix: str = COPY_AGAIN) -> bytes:
    """Return the content of a file of at most `limit_bytes`. Raises the errors of `open_bounded`."""
    with open_bounded(path, limit_bytes, fix=fix) as (stream, size):
        return bytes(stream.read(size + 1))  # no more, whatever a special file brings


@contextlib.contextmanager
def open_bounded(
    path: StoragePath, limit_bytes: int, *, fix: str = COPY_AGAIN
) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file for reading and yield (stream, size in bytes).

    Raises InputError if the file is larger than `limit_bytes`, or is a folder, pipe or device; OSError as `open` does.
    """
    regular = InputError("is not a regular file, but a folder, pipe or device", file=path, fix=fix)
    if isinstance(path, Path) and path.is_dir():
        raise regular
    stream: Any
    with (
        path.open("rb") if isinstance(path, S3Path) else open(path, "rb", opener=_folder.without_waiting)
    ) as stream:
        if isinstance(path, S3Path):
            size = stream.size()
        else:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise regular
            size = found.st_size
        if size > limit_bytes:
            raise InputError(f"is larger than the allowed {limit_bytes:,} bytes", file=path, fix=fix)
        yield stream, size


def parse_json(data: bytes | str, file: object, *, fix: str = COPY_AGAIN) -> Any:
    """Parse a JSON text and return its value. Raises InputError that names `file` but quotes nothing of the text."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("is not readable JSON", file=file, fix=fix) from None
    level = [found]
    for _ in range(JSON_DEPTH):
        inner = [
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        ]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level:
        raise InputError(f"contains JSON that is nested deeper than {JSON_DEPTH} levels", file=file, fix=fix)
    return found


def sizes(folder: StoragePath) -> dict[str, int]:
    """Return the size in bytes of each file directly in `folder`, by name; empty if the folder does not exist."""
    return folder.sizes() if isinstance(folder, S3Path) else _folder.sizes(folder)


def remove_tree(folder: StoragePath) -> None:
    """Remove as much of `folder` as can be removed; never raises."""
    if isinstance(folder, S3Path):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def move(source: StoragePath, target: StoragePath) -> None:
    """Rename a file or folder within the same storage. `S3Path.move` says what happens to files written meanwhile."""
    if isinstance(source, S3Path):
        assert isinstance(target, S3Path)
        source.move(target)
    else:
        source.rename(str(target))


def make_private(folder: StoragePath) -> None:
    """Create the folder if it does not exist, readable by its owner only. In a bucket, its policy decides who may read."""
    if isinstance(folder, Path):
        _folder.make_private(folder)


def put_tree(source: Path, target: StoragePath) -> None:
    """Move a local folder to `target`, replacing what was there."""
    remove_tree(target)
    if isinstance(target, Path):
        _folder.put_tree(source, target)
        return
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        put_file(file, target / file.relative_to(source))
    shutil.rmtree(source)


def local(place: str | StoragePath) -> Path:
    """Return a local copy of a file or folder. A local path is returned as it is.

    A remote one is downloaded once per process, and the copy is removed when the process ends.
    """
    path = at(place) if isinstance(place, str) else place
    return path if isinstance(path, Path) else _downloaded(path)


@functools.lru_cache(maxsize=64)
def _downloaded(path: S3Path) -> Path:
    return path.download(temporary_folder())
