"""Access to data files: local files, folders and globs, s3:// and every other URL that fsspec can open.

A path is an absolute local path or a URL. Messages show a URL without its credentials, see `shown`.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import NoReturn

from medray.data.files import http
from medray.data.files.formats import ENDINGS, SAVED_DATASET, is_saved_dataset, known_format
from medray.data.files.remote import FIX, RemoteStream, place, unreadable
from medray.data.files.remote import shown as shown
from medray.data.files.split_names import is_data
from medray.errors import InputError
from medray.storage import summary

MOST_ENTRIES = 200_000  # files and folders that a folder or a ** may contain; a whole disk has more
Walked = tuple[str, list[str], list[str]]
_CHANGED = (
    "mtime",
    "LastModified",
    "Last-Modified",
    "created",
)  # names of the modification time in file systems
_READ_AHEAD = 1 << 20
_READ_AHEAD_REMOTE = 8 << 20  # a request takes about 50 ms, whatever its size


def expand(path: str, *, key: str) -> tuple[str, ...]:
    """Return the files that `path` names, absolute and sorted.

    `path` is a file, a folder, a glob, or a URL of one of these.

    For a folder, these are its files with a known format or, if it has none, those of its subfolders. A folder that
    datasets' save_to_disk wrote is one source and is returned itself. Files whose names say that they are not data
    (see `is_data`) are left out. Raises InputError with `key` if nothing is found, or if a file is empty or not
    readable.
    """
    if is_remote(path):
        return _remote_files(path, key)
    whole = os.path.abspath(os.path.expanduser(_local(path)))
    if os.path.isdir(whole):
        found = _of_folder(whole, path, key)
    elif os.path.lexists(whole):
        found = [whole]
    elif glob.has_magic(whole):
        if "**" in whole:  # glob returns nothing until it has walked the whole tree
            above = glob.escape(whole).partition("[")[0].rpartition("/")[0] or "/"
            for _ in _bounded(os.walk(above, followlinks=True), path, key):
                pass
        matches = [each for each in glob.glob(whole, recursive=True) if is_data(each)]
        found = [each for each in matches if not os.path.isdir(each)]
        if not found:
            found = [file for each in matches for file in _of_folder(each, path, key)]
    else:
        raise _wrong(
            "there is no such file",
            path,
            key,
            "check the path, set data.root to its folder, or use the full path",
        )
    if not found:
        raise _wrong("no file matches", path, key, "check the pattern; use ** to match subfolders too")
    for file in found:
        _check_local(file, path, key)
    return tuple(sorted(set(found)))


def open_binary(path: str) -> io.BufferedReader:
    """Open a file as a seekable, buffered stream of bytes."""
    if not is_remote(path):
        try:
            return io.BufferedReader(io.FileIO(_local(path)), _READ_AHEAD)
        except OSError as error:
            unreadable(error, path)
    answer = http.ask(path) if http.is_http(path) else None
    if answer is not None and not (answer.ranges and answer.size):
        return io.BufferedReader(io.FileIO(http.local_copy(path, answer)), _READ_AHEAD)
    at = place(path)
    try:
        told = {} if answer is None else {"size": answer.size}  # without it, fsspec asks again
        stream = at.filesystem.open(at.root, "rb", **told)
    except Exception as error:  # each protocol has its own errors
        unreadable(error, path)
    return io.BufferedReader(RemoteStream(stream, path), _READ_AHEAD_REMOTE)


def size(path: str) -> int:
    """Return the size of a file in bytes."""
    try:
        if not is_remote(path):
            return os.path.getsize(_local(path))
        if http.is_http(path):
            answer = http.ask(path)
            known = answer.size if answer.ranges else None
            return http.local_copy(path, answer).stat().st_size if known is None else known
        at = place(path)
        return int(at.filesystem.info(at.root)["size"])
    except InputError:
        raise
    except Exception as error:
        unreadable(error, path)


def stamp(path: str) -> str:
    """Return a value that changes when the file changes, without reading the file: its etag, or size and modification
    time.

    If a server gives neither, the value differs on each call, so that nothing is cached under it.
    """
    try:
        if not is_remote(path):
            return ",".join(_stamp_local(file) for file in _parts(_local(path)))
        if http.is_http(path):
            answer = http.ask(path)
            return f"{answer.size}-{answer.etag or answer.changed or uuid.uuid4()}"
        at = place(path)
        info = at.filesystem.info(at.root)
        etag = info.get("ETag") or info.get("etag") or at.etag()
        changed = next((info[name] for name in _CHANGED if info.get(name)), None)
        return f"{info.get('size')}-{etag or changed or uuid.uuid4()}"
    except InputError:
        raise
    except Exception as error:
        unreadable(error, path)


def content_hash(path: str) -> str:
    """Return the SHA-256 of a file's content or, for a folder, of the names and contents of all its files."""
    folder = _local(path)
    if is_remote(path) or not os.path.isdir(folder):
        return _sha256(path)
    whole = hashlib.sha256()
    for file in _parts(folder):
        whole.update(f"{os.path.relpath(file, folder)}\0{_sha256(file)}\n".encode())
    return whole.hexdigest()


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith(("file://", "local://"))


def _is_web_folder(path: str) -> bool:
    """Return whether a URL is a web page that lists files: its name shows no format, and the server sends a page."""

    return known_format(path) is None and http.ask(path).page


def saved_splits(path: str) -> list[str]:
    """Return the splits of a local DatasetDict that datasets' save_to_disk wrote; [] for anything else."""
    try:
        with open(os.path.join(os.path.expanduser(path), "dataset_dict.json"), encoding="utf-8") as stream:
            found = json.loads(stream.read(1 << 20)).get("splits", [])
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _remote_files(path: str, key: str) -> tuple[str, ...]:
    try:
        at = place(path.rstrip("/"))
        if "::" in path:
            found: Iterable[str] = [at.root]
        elif re.search(r"[*\[]" if path.startswith("http") else r"[*?\[]", path):
            found = [each for each in at.filesystem.glob(at.root) if is_data(each)]
            found = [each for each in found if not at.filesystem.isdir(each)]
        elif http.is_http(path) and not _is_web_folder(path):
            found = [at.root]  # `isdir` would read the whole file
            answer = http.ask(path)
            if answer.page:
                page, fix = (
                    "the server sent a web page instead of a data file",
                    "use the URL of the file itself",
                )
                raise _wrong(page, path, key, fix)
            if answer.size == 0:
                _empty(path, path, key)
            return (path,)
        elif at.filesystem.isdir(at.root):
            names = at.filesystem.find(at.root, maxdepth=1)
            if any(name.rsplit("/", 1)[-1] in SAVED_DATASET for name in names):
                raise _wrong(
                    "a data set that save_to_disk wrote can only be read from a local folder",
                    path,
                    key,
                    "copy the folder to a local disk",
                )
            found = _known(names) or _known(at.filesystem.find(at.root))
        else:
            found = [at.root]
        sizes = {name: at.filesystem.info(name).get("size") for name in sorted(set(found))}
    except InputError as error:
        raise _wrong(error.what, path, key, error.fix) from None
    except FileNotFoundError:
        sizes = {}
    except Exception as error:  # each protocol has its own errors, whose texts may contain secrets
        raise _wrong(f"this path cannot be read ({summary(error)})", path, key, FIX) from None
    if not sizes:
        raise _wrong("no file was found there", path, key, "check the bucket or host, and the name")
    for name, found_size in sizes.items():
        if found_size == 0:
            _empty(at.url(name), path, key)
    return (path,) if "::" in path else tuple(at.url(name) for name in sizes)


def _of_folder(folder: str, path: str, key: str) -> list[str]:
    if is_saved_dataset(folder):
        return [folder]
    if not os.access(folder, os.R_OK | os.X_OK):
        raise _wrong(
            f"this user may not read {folder}", path, key, "run chmod, or ask the owner of the folder"
        )
    found: list[str] = []
    for parent, folders, names in _bounded(os.walk(folder), path, key):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += _known(os.path.join(parent, name) for name in names)
        if parent == folder and found:
            break
    if not found:
        raise _wrong(
            "the folder has no file of a known format",
            path,
            key,
            f"use files with one of these endings: {', '.join(ENDINGS)}",
        )
    return found


def _bounded(walk: Iterator[Walked], path: str, key: str) -> Iterator[Walked]:
    """Yield the same walk. Raises InputError if it meets more than MOST_ENTRIES files and folders."""
    met = 0
    for parent, folders, names in walk:
        met += 1 + len(names)
        if met > MOST_ENTRIES:
            raise _wrong(
                f"the folder contains more than {MOST_ENTRIES:,} files and folders",
                path,
                key,
                "use a subfolder that contains only the data",
            )
        yield parent, folders, names


def _known(names: Iterable[str]) -> list[str]:

    return [name for name in names if is_data(name) and known_format(name)]


def _check_local(file: str, path: str, key: str) -> None:
    if os.path.isdir(file):  # a saved data set
        return
    if not os.path.isfile(file):
        raise _wrong(
            f"{file} is not a regular file", path, key, "check whether it is a broken link or a device"
        )
    if not os.access(file, os.R_OK):
        raise _wrong(f"this user may not read {file}", path, key, "run chmod, or ask the owner of the file")
    if os.path.getsize(file) == 0:
        _empty(file, path, key)


def _empty(file: str, path: str, key: str) -> NoReturn:
    what = "the file is empty" if shown(file) == shown(path) else f"{shown(file)} is empty"
    raise _wrong(what, path, key, "create the file again, or remove it from the data")


def _wrong(what: str, path: str, key: str, fix: str | None) -> InputError:
    return InputError(what, key=key, value=shown(path), fix=fix)


def _local(path: str) -> str:
    return re.sub(r"^(file|local)://", "", path)


def _parts(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names)


def _stamp_local(file: str) -> str:
    found = os.stat(file)
    return f"{found.st_size}-{found.st_mtime_ns}"


def _sha256(path: str) -> str:
    with open_binary(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
