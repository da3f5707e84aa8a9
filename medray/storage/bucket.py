"""Storage in an S3 bucket: objects with the methods of a path, and the functions that differ from those for a local
folder.

pyarrow reads credentials and endpoint from the usual AWS_* variables or files; nothing here stores them. S3 is
consistent: a read or a listing after a write shows the new content, and an object is either complete or absent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

CONNECT_SECONDS, REQUEST_SECONDS = 5, 15  # in which nothing comes; each request is tried three times
COPY_BYTES = 8 << 20
# S3 copies no larger object in one request, and pyarrow asks for no copy in parts: what is larger goes through this process.
LARGEST_COPY = 5 << 30  # bytes


class S3Path:
    """The path of an S3 object, or of a "folder": all objects whose names begin with this path and a slash.

    It is not an os.PathLike, so it cannot be passed to functions for local files by mistake.
    """

    def __init__(self, key: str) -> None:
        self._key = key.strip("/")

    @property
    def key(self) -> str:
        """Return bucket and name joined by a slash, the form that pyarrow's file system expects."""
        return self._key

    @property
    def filesystem(self) -> Any:
        return s3_filesystem(self._key.partition("/")[0])

    @property
    def name(self) -> str:
        return self._key.rpartition("/")[2]

    @property
    def parent(self) -> S3Path:
        return S3Path(self._key.rpartition("/")[0] or self._key)

    @property
    def parts(self) -> tuple[str, ...]:
        return ("s3://", *self._key.split("/"))

    def __truediv__(self, name: str | Path) -> S3Path:
        return S3Path(f"{self._key}/{name}")

    def with_name(self, name: str) -> S3Path:
        return self.parent / name

    def __str__(self) -> str:
        return f"s3://{self._key}"

    def __repr__(self) -> str:
        return f"S3Path({self._key!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Path) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __lt__(self, other: S3Path) -> bool:
        return self._key < other._key

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def is_dir(self) -> bool:
        return self._kind() == "Directory"

    def _kind(self) -> str:
        return str(self.filesystem.get_file_info(self._key).type.name)

    def iterdir(self) -> Iterator[S3Path]:
        yield from (S3Path(entry.path) for entry in self._entries() if entry.path != self._key)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each object directly in this folder, by name."""
        from pyarrow import fs

        return {entry.base_name: entry.size for entry in self._entries() if entry.type == fs.FileType.File}

    def _entries(self) -> Any:
        from pyarrow import fs

        return self.filesystem.get_file_info(fs.FileSelector(self._key, allow_not_found=True))

    def glob(self, pattern: str) -> Iterator[S3Path]:
        """Yield the entries directly in this folder that match `pattern`."""
        yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def objects(self) -> dict[S3Path, int]:
        """Return the object with this name or, if there is none, all objects below it; each with its size in bytes."""
        from pyarrow import fs

        info = self.filesystem.get_file_info(self._key)
        if info.type == fs.FileType.File:
            return {self: info.size}
        selector = fs.FileSelector(self._key, recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return {S3Path(entry.path): entry.size for entry in found if entry.type == fs.FileType.File}

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the object for reading, which fetches ranges on demand (rb), or for an upload in parts (wb).

        If the `with` block of an upload raises, no usable object is left.
        """
        if mode == "rb":
            stream: Any = self.filesystem.open_input_file(self._key)
        elif mode == "wb":
            stream = self.filesystem.open_output_stream(self._key, compression=None)
        else:
            raise ValueError(f"an S3 object cannot be opened in mode {mode!r}; use 'rb' or 'wb'")
        opened: IO[bytes] = stream
        return opened

    def read_bytes(self) -> bytes:
        with self.filesystem.open_input_stream(self._key, compression=None) as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        with self.open("wb") as stream:
            stream.write(data)

    def append(self, data: bytes) -> None:
        """Write the whole object again, with `data` at its end."""
        try:
            before = self.read_bytes()
        except FileNotFoundError:
            before = b""
        self.write_bytes(before + data)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.filesystem.delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *args: object, **kwargs: object) -> None:
        """Do nothing, because a folder in a bucket exists as soon as an object is in it."""

    def remove_tree(self) -> None:
        with contextlib.suppress(OSError):
            self.filesystem.delete_dir(self._key)

    def move(self, target: S3Path) -> None:
        """Copy the objects to `target`, then remove the originals. Objects that another process writes meanwhile stay."""
        moved = self.objects()
        for path, size in moved.items():
            _copy(path, S3Path(target.key + path.key[len(self._key) :]), size)
        for path in moved:
            path.unlink()
        with contextlib.suppress(
            OSError
        ):  # pyarrow keeps a folder that became empty, as an object of its own
            if not self.objects():
                self.filesystem.delete_dir(self._key)

    def download(self, folder: Path) -> Path:
        """Copy the object, or all objects below this name, into `folder`. Raises FileNotFoundError if there is none."""
        for found in self.objects():
            target = folder / (self.name + found.key[len(self._key) :])
            target.parent.mkdir(parents=True, exist_ok=True)
            with found.open("rb") as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out, COPY_BYTES)
        if not (folder / self.name).exists():
            raise FileNotFoundError(str(self))
        return folder / self.name


def put_file(source: Path, target: S3Path) -> None:
    """Move a local file into a bucket."""
    with source.open("rb") as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, COPY_BYTES)
    source.unlink()


def s3_filesystem(bucket: str) -> Any:
    """Return pyarrow's file system for a bucket, configured from this process's environment variables."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return _s3(endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"), bucket)


@functools.lru_cache(maxsize=8)
def _s3(endpoint: str | None, region: str | None, bucket: str) -> Any:
    from pyarrow import fs

    if region is None and endpoint is None:
        try:
            region = fs.resolve_s3_region(bucket)
        except (OSError, ValueError):  # the first request says what is wrong
            region = None
    scheme, _, host = (endpoint or "").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        allow_delayed_open=True,  # what is small goes in one request
    )


def _copy(source: S3Path, target: S3Path, size: int) -> None:
    if size <= LARGEST_COPY:
        source.filesystem.copy_file(source.key, target.key)
        return
    with source.open("rb") as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, COPY_BYTES)
