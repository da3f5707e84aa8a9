"""Where runs live: a local or shared folder, or a prefix in an S3 bucket, behind the few calls that both can answer.

`at("runs")` is a pathlib.Path, `at("s3://bucket/prefix")` an S3Path, which has those of pathlib's methods that mean the
same for objects. The functions here are what differs between the two. Credentials and endpoint of S3 come from the usual
AWS_* variables or files; pyarrow reads them, and nothing here holds them. S3 answers a read after a write with what was
written, in listings too, and a put is whole or not there: what this house needs of a file system.

All calls raise FileNotFoundError for what is not there, and another OSError where storage cannot be asked: an S3Path
never says "not there" because a server did not answer.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from medray.errors import InputError

CONNECT_SECONDS, REQUEST_SECONDS = 5, 15  # in which nothing comes; each request is tried three times
PRIVATE = 0o700
COPY_BYTES = 8 << 20
JSON_BYTES, JSON_DEPTH = 4 << 20, 64  # of a settings file that may come from anywhere
# S3 copies no larger object in one request, and pyarrow asks for no copy in parts: what is larger goes through this process.
LARGEST_COPY = 5 << 30  # bytes
COPY_AGAIN = "copy or download it again"


class S3Path:
    """An object, or what begins with its name and a slash. Not os.PathLike: no local call can take it by mistake."""

    def __init__(self, key: str) -> None:
        self._key = key.strip("/")

    @property
    def key(self) -> str:
        """bucket/name, as pyarrow's file system wants it."""
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
        from pyarrow import fs

        found = self.filesystem.get_file_info(fs.FileSelector(self._key, allow_not_found=True))
        yield from (S3Path(entry.path) for entry in found if entry.path != self._key)

    def glob(self, pattern: str) -> Iterator[S3Path]:
        """Of this folder's own entries."""
        yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """rb: reads ranges on demand. wb: uploads in parts as they come; a block that raises leaves no sound object."""
        if mode == "rb":
            stream: Any = self.filesystem.open_input_file(self._key)
        elif mode == "wb":
            stream = self.filesystem.open_output_stream(self._key, compression=None)
        else:
            raise ValueError(f"an object is read or written as a whole, not opened as {mode!r}")
        return stream

    def read_bytes(self) -> bytes:
        with self.filesystem.open_input_stream(self._key, compression=None) as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.filesystem.delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *args: object, **kwargs: object) -> None:
        """Nothing: a folder is there when something is in it."""


StoragePath = Path | S3Path


def at(place: str | Path) -> StoragePath:
    """A path or s3:// URL as an object with pathlib's methods."""
    text = str(place)
    return S3Path(text.partition("://")[2]) if is_remote(text) else Path(text)


def is_remote(place: str) -> bool:
    return re.match(r"s3a?://", place) is not None


def s3_filesystem(bucket: str) -> Any:
    """pyarrow's file system for a bucket, as the environment of this process describes it."""
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


def check_reachable(path: StoragePath) -> None:
    """Raises InputError where storage does not answer, or refuses."""
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
    """What may be told of an error whose text is another's: it may quote a signed URL."""
    if known := re.search(r"AWS Error ([A-Z_]+)", str(error)):
        return known[1]
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return type(error).__name__


def write(path: StoragePath, content: Any, *, durable: bool = False) -> None:
    """A reader sees the whole file or what was there before. content: text or bytes. durable: after a power cut too."""
    data = content.encode() if isinstance(content, str) else content
    if isinstance(path, S3Path):
        with path.open("wb") as stream:
            stream.write(data)
        return
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


def _private(path: str, flags: int) -> int:
    """What a run writes holds patients' text."""
    return os.open(path, flags, 0o600)


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
    with path.open("rb") if isinstance(path, S3Path) else open(path, "rb", opener=_without_waiting) as stream:
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


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse_json(data: bytes | str, file: object, *, fix: str = COPY_AGAIN) -> Any:
    """Return the value of a JSON text. Raises InputError that names `file` and tells nothing of the text."""
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


def append(path: StoragePath, text: str) -> None:
    """Adds lines to a file that one process writes. Of an object, the whole is written anew.

    A last line that was cut off, by a full disk or a power failure, stays a line of its own.
    """
    if isinstance(path, Path):
        with open(path, "ab+", opener=_private) as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                text = text if stream.read() == b"\n" else f"\n{text}"
            stream.write(text.encode())
        return
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = b""
    write(path, before + text.encode())


def sizes(folder: StoragePath) -> dict[str, int]:
    """Bytes of each file of `folder` itself, by name; empty where there is no such folder."""
    if isinstance(folder, Path):
        try:
            return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
    from pyarrow import fs

    found = folder.filesystem.get_file_info(fs.FileSelector(folder.key, allow_not_found=True))
    return {entry.base_name: entry.size for entry in found if entry.type == fs.FileType.File}


def remove_tree(folder: StoragePath) -> None:
    """Removes what can be removed of `folder`; never raises."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        folder.filesystem.delete_dir(folder.key)


def move(source: StoragePath, target: StoragePath) -> None:
    """A file or folder to another name of the same storage.

    Objects are copied, then those that were copied are removed: what another writes there meanwhile stays.
    """
    if isinstance(source, Path):
        source.rename(str(target))
        return
    assert isinstance(target, S3Path)
    moved = _objects(source)
    for path, size in moved.items():
        _copy(path, S3Path(target.key + path.key[len(source.key) :]), size)
    for path in moved:
        path.unlink()
    with contextlib.suppress(OSError):  # pyarrow keeps a folder that became empty, as an object of its own
        if not _objects(source):
            source.filesystem.delete_dir(source.key)


def _copy(source: S3Path, target: S3Path, size: int) -> None:
    if size <= LARGEST_COPY:
        source.filesystem.copy_file(source.key, target.key)
        return
    with source.open("rb") as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, COPY_BYTES)


def make_private(folder: StoragePath) -> None:
    """Makes the folder where it is not there, for its owner alone. Who reads a bucket, its policy says."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(PRIVATE)


def put_tree(source: Path, target: StoragePath) -> None:
    """A local folder's files to `target`, in the place of what was there; `source` is gone afterwards."""
    remove_tree(target)
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(source), target)
        return
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        put_file(file, target / file.relative_to(source))
    shutil.rmtree(source)


def put_file(source: Path, target: S3Path) -> None:
    """A local file to `target`; `source` is gone afterwards."""
    with source.open("rb") as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, COPY_BYTES)
    source.unlink()


def local(place: str | StoragePath) -> Path:
    """A local copy of a file or folder: itself where it is local, else fetched once a process, removed at its end."""
    path = at(place) if isinstance(place, str) else place
    return path if isinstance(path, Path) else _fetched(path)


@functools.lru_cache(maxsize=64)
def _fetched(path: S3Path) -> Path:
    folder = temporary_folder()
    for found in _objects(path):
        target = folder / (path.name + found.key[len(path.key) :])
        target.parent.mkdir(parents=True, exist_ok=True)
        with found.open("rb") as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out, COPY_BYTES)
    if not (folder / path.name).exists():
        raise FileNotFoundError(str(path))
    return folder / path.name


def temporary_folder() -> Path:
    """A private folder of this process on its machine, removed when the process ends in order."""
    folder = Path(tempfile.mkdtemp(prefix="medray-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _objects(path: S3Path) -> dict[S3Path, int]:
    """The object of this name, else all that begin with it and a slash; each with its bytes."""
    from pyarrow import fs

    info = path.filesystem.get_file_info(path.key)
    if info.type == fs.FileType.File:
        return {path: info.size}
    selector = fs.FileSelector(path.key, recursive=True, allow_not_found=True)
    found = path.filesystem.get_file_info(selector)
    return {S3Path(entry.path): entry.size for entry in found if entry.type == fs.FileType.File}
