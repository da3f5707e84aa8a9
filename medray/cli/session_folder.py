"""The folder of a private cluster: its sockets and logs, for its owner alone, removed when the driver has ended.

Ray makes its folders writable for everybody, so they are inside one of mode 0700. A driver holds a lock on a file of it,
which the kernel frees however the driver dies: the next start removes what a killed one has left. The path of a socket
holds some 100 bytes, so a long TMPDIR is passed over for a shorter one.
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
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of a path that a socket can have
# The longest name that Ray gives one below the folder that it is told: time and process id of the driver.
SOCKET = "/session_2026-11-30_10-39-55_449001_4194304/sockets/plasma_store"
INNER = "r"  # in our folder; Ray gives the one that it is told, and all below, the mode 0777
BASE_BYTES = SOCKET_BYTES - len(f"/{PREFIX}abcdefgh/{INNER}{SOCKET}")  # of the folder that ours is made in
REMOVE_TRIES, REMOVE_PAUSE = 20, 0.05  # processes that are ending may still write


class SessionFolder:
    """A private folder of this driver. Removes those that drivers of this user have left where they were killed.

    Raises InputError where no folder that Ray may use is short enough.
    """

    def __init__(self) -> None:
        bases = list(_bases())
        for base in bases:
            _remove_left(base)
        self._path, self._lock = _make(bases)

    @property
    def ray(self) -> str:
        """The folder for Ray."""
        return str(self._path / INNER)

    def remove(self) -> None:
        """Removes it with all that is in it, when the cluster has ended."""
        os.close(self._lock)
        _remove(self._path)


def _bases() -> Iterator[Path]:
    """Folders to make ours in, the wanted ones first."""
    wanted = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "~/.cache", "/dev/shm"]
    yield from dict.fromkeys(Path(base).expanduser().absolute() for base in wanted if base)


def _make(bases: list[Path]) -> tuple[Path, int]:
    for base in bases:
        if len(os.fsencode(base)) > BASE_BYTES or not _safe(base):
            continue
        with suppress(OSError):
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # of mode 0700
            # Under another name until it is locked, so that nobody takes it for one that was left.
            descriptor = os.open(path / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # a file system without locks: a killed driver's folder stays there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (path / "new").rename(path / OWNER)
            return path, descriptor
    raise InputError(
        f"no folder for the sockets of a local Ray cluster: a path of at most {BASE_BYTES} bytes is needed, in which this user may write and others may not replace files; tried {', '.join(map(str, bases))}",
        key="RAY_TMPDIR",
        value=os.environ.get("RAY_TMPDIR"),
        fix="export RAY_TMPDIR=/a/short/folder of your own, or set cluster.address to a running cluster",
    )


def _safe(base: Path) -> bool:
    """Whether no other user can put another folder in the place of ours: none above it is writable for others.

    A sticky one, as /tmp is, keeps what it holds for its owners.
    """
    with suppress(OSError):
        real = base.resolve(strict=True)
        modes = [one.stat().st_mode for one in (real, *real.parents)]
        return all(mode & stat.S_ISVTX or not mode & (stat.S_IWGRP | stat.S_IWOTH) for mode in modes)
    return False


def _remove_left(base: Path) -> None:
    """Folders of this user's drivers that live no more."""
    with suppress(OSError):
        for entry in os.scandir(base):
            with suppress(OSError):
                if entry.name.startswith(PREFIX) and _is_ours(entry) and _is_left(Path(entry.path, OWNER)):
                    _remove(Path(entry.path))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _is_left(owner: Path) -> bool:
    """Whether its driver is dead. Raises OSError where it is not one of a driver, or its driver lives."""
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
