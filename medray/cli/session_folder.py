"""The folder of a private Ray cluster with its sockets and logs: readable by its owner only, removed when the driver ends.

Ray makes its folders writable for everybody, so they are inside a folder of mode 0700. A driver holds a lock on a file
in it, which the kernel frees however the driver dies: the next start removes the folders of killed drivers. The path
of a socket may have only about 100 bytes, so a TMPDIR that is too long is skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from medray.errors import InputError

PREFIX, OWNER = "medray-", "driver"
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # longest path of a socket
# The longest path of a socket below the folder that Ray is given: it has the time and process id of the driver.
SOCKET = "/session_2026-11-30_10-39-55_449001_4194304/sockets/plasma_store"
INNER = "r"  # a subfolder for Ray, which gives it and everything below the mode 0777
BASE_BYTES = SOCKET_BYTES - len(f"/{PREFIX}abcdefgh/{INNER}{SOCKET}")  # longest path of our folder's parent
REMOVE_TRIES, REMOVE_PAUSE = 20, 0.05  # processes that are ending may still write


class SessionFolder:
    """The private folder of this driver's cluster. Creating it also removes folders of this user's killed drivers.

    Raises InputError if no folder with a path that is short enough for Ray can be made.
    """

    def __init__(self) -> None:
        bases = list(_bases())
        for base in bases:
            _remove_left(base)
        self._path, self._lock = _make(bases)

    @property
    def ray(self) -> str:
        """Return the folder that Ray should use."""
        return str(self._path / INNER)

    def remove(self) -> None:
        """Remove the folder and everything in it. Call it when the cluster has ended."""
        os.close(self._lock)
        _remove(self._path)


def _bases() -> Iterator[Path]:
    """Yield the folders in which ours may be made, in order of preference."""
    wanted = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "~/.cache", "/dev/shm"]
    yield from dict.fromkeys(Path(base).expanduser().absolute() for base in wanted if base)


def _make(bases: list[Path]) -> tuple[Path, int]:
    for base in bases:
        if len(os.fsencode(base)) > BASE_BYTES or not _safe(base):
            continue
        with suppress(OSError):
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # of mode 0700
            # The file has another name until it is locked, so that no other driver takes the folder for an abandoned one.
            descriptor = os.open(path / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # on a file system without locks the folder of a killed driver stays
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (path / "new").rename(path / OWNER)
            return path, descriptor
    raise InputError(
        "no folder can hold the sockets of a local Ray cluster: its path must have at most "
        f"{BASE_BYTES} bytes, this user must be able to write to it, and other users must not be able to replace files in "
        f"it; tried {', '.join(map(str, bases))}",
        key="RAY_TMPDIR",
        value=os.environ.get("RAY_TMPDIR"),
        fix="set RAY_TMPDIR to a folder of yours with a short path, or set cluster.address to a running cluster",
    )


def _safe(base: Path) -> bool:
    """Return whether no other user can replace our folder: no folder above it is writable for others.

    A sticky folder such as /tmp is safe: only the owner of a file can replace it.
    """
    with suppress(OSError):
        real = base.resolve(strict=True)
        modes = [one.stat().st_mode for one in (real, *real.parents)]
        return all(mode & stat.S_ISVTX or not mode & (stat.S_IWGRP | stat.S_IWOTH) for mode in modes)
    return False


def _remove_left(base: Path) -> None:
    """Remove the folders of this user's drivers that have died."""
    with suppress(OSError):
        for entry in os.scandir(base):
            with suppress(OSError):
                if entry.name.startswith(PREFIX) and _is_ours(entry) and _is_left(Path(entry.path, OWNER)):
                    _remove(Path(entry.path))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _is_left(owner: Path) -> bool:
    """Return whether the folder's driver is dead. Raises OSError if it lives, or if the folder has no driver's file."""
    descriptor = os.open(owner, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(REMOVE_PAUSE)
