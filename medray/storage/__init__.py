"""Storage of runs: a local or shared folder, or a prefix in an S3 bucket, through the few calls that both can answer.

`at("runs")` is a pathlib.Path, `at("s3://bucket/prefix")` an S3Path, which has those of pathlib's methods that mean the
same for objects. The functions here are what differs between the two: `folder` and `bucket` hold each half.

All calls raise FileNotFoundError for what does not exist, and another OSError where storage cannot be asked: an S3Path
never says "does not exist" because a server did not answer.
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
    """Raise InputError where storage does not answer, or refuses."""
    if isinstance(path, S3Path):
        try:
            path.exists()
        except OSError as error:
            raise unreachable(path, error) from None


def unreachable(path: StoragePath, error: OSError) -> InputError:
    return InputError(
        f"the storage cannot be used ({summary(error)})",
        key="run.storage",
        value=str(path),
        fix="check the bucket's name, the network and the AWS_* credentials in the environment",
    )


def summary(error: Exception) -> str:
    """Return what may be shown of an error of another library: its text may quote a signed URL."""
    if known := re.search(r"AWS Error ([A-Z_]+)", str(error)):
        return known[1]
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return type(error).__name__


def write(path: StoragePath, content: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file. A reader sees all of it or what was there before. durable: after a power cut too."""
    data: Any = content.encode() if isinstance(content, str) else content
    if isinstance(path, S3Path):
        path.write_bytes(data)
    else:
        _folder.write(path, data, durable=durable)


def append(path: StoragePath, text: str) -> None:
    """Add lines to a file that one process writes; an object is written again as a whole.

    A last line that was cut off, by a full disk or a power failure, stays a line of its own.
    """
    if isinstance(path, S3Path):
        path.append(text.encode())
    else:
        _folder.append(path, text.encode())


def read_json(path: StoragePath, *, limit_bytes: int = JSON_BYTES, fix: str = COPY_AGAIN) -> dict[str, Any]:
    """Return the JSON object in a file that may come from anywhere. Raises as `read_bounded` and `parse_json`."""
    found = parse_json(read_bounded(path, limit_bytes, fix=fix), path, fix=fix)
    if not isinstance(found, dict):
        raise InputError("is not a JSON object", file=path, fix=fix)
    return found


def read_bounded(path: StoragePath, limit_bytes: int, *, fix: str = COPY_AGAIN) -> bytes:
    """Return the bytes of a file. Raises as `open_bounded`."""
    with open_bounded(path, limit_bytes, fix=fix) as (stream, size):
        return bytes(stream.read(size + 1))  # no more, whatever a special file brings


@contextlib.contextmanager
def open_bounded(
    path: StoragePath, limit_bytes: int, *, fix: str = COPY_AGAIN
) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file and tell its bytes. Raises InputError where it is larger, or a folder, pipe or device; OSError as
    `open` does."""
    regular = InputError("is not a regular file", file=path, fix=fix)
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
            raise InputError(f"is larger than {limit_bytes:,} bytes", file=path, fix=fix)
        yield stream, size


def parse_json(data: bytes | str, file: object, *, fix: str = COPY_AGAIN) -> Any:
    """Return the value of a JSON text. Raises InputError that names `file` and quotes nothing of the text."""
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
        raise InputError(f"nests JSON deeper than {JSON_DEPTH} levels", file=file, fix=fix)
    return found


def sizes(folder: StoragePath) -> dict[str, int]:
    """Return the bytes of each file of `folder` itself, by name; empty where there is no such folder."""
    return folder.sizes() if isinstance(folder, S3Path) else _folder.sizes(folder)


def remove_tree(folder: StoragePath) -> None:
    """Remove as much of `folder` as can be removed; never raises."""
    if isinstance(folder, S3Path):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def move(source: StoragePath, target: StoragePath) -> None:
    """Rename a file or folder within the same storage; see `S3Path.move` for what others write there meanwhile."""
    if isinstance(source, S3Path):
        assert isinstance(target, S3Path)
        source.move(target)
    else:
        source.rename(str(target))


def make_private(folder: StoragePath) -> None:
    """Make the folder where it does not exist, for its owner alone. A bucket's policy decides who may read it."""
    if isinstance(folder, Path):
        _folder.make_private(folder)


def put_tree(source: Path, target: StoragePath) -> None:
    """Move a local folder to `target`, and replace what was there."""
    remove_tree(target)
    if isinstance(target, Path):
        _folder.put_tree(source, target)
        return
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        put_file(file, target / file.relative_to(source))
    shutil.rmtree(source)


def local(place: str | StoragePath) -> Path:
    """Return a local copy of a file or folder: itself where it is local, else downloaded once by each process and removed at its end."""
    path = at(place) if isinstance(place, str) else place
    return path if isinstance(path, Path) else _downloaded(path)


@functools.lru_cache(maxsize=64)
def _downloaded(path: S3Path) -> Path:
    return path.download(temporary_folder())
