"""The lock of a run folder: at most one driver holds it, and the kernel releases it however the holder dies.

The lock is flock(2) on `<run folder>/.lock`. The file contains the holder's host, process id and time, for messages only;
they are never trusted. The holder removes the file at a normal end; the file of a killed holder locks nothing. A bucket has
no such lock: see train/run_folder/bucket_lock.py.

Covered: two drivers on one machine; two hosts on a shared folder whose file system supports flock across hosts (NFS 3 with
its lock service, NFS 4, Lustre mounted with `flock`, CephFS, GPFS). If a host loses power, an NFS server releases its lock
when the lease expires, after a minute or two. Not covered: mounts that lock only within one host (`nolock`,
`local_lock=flock`, Lustre's `localflock`) or not at all (the console says so), and the workers of a killed driver on a
cluster that others started: Ray ends them seconds later.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath
from medray.train.run_folder import bucket_lock

FILE = ".lock"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_TRIES = 100  # a try is lost only if the previous holder ends at the same moment


@dataclass(frozen=True)
class _Held:
    """A lock that this process holds. made: the folder did not exist before."""

    descriptor: int
    thread: int
    made: bool


_held: dict[Path, _Held] = {}  # locks of this process, by resolved folder


@contextmanager
def held(
    folder: StoragePath, say: Callable[[str], None] = lambda text: None, *, option: str | None = None
) -> Iterator[None]:
    """Lock the run folder for this thread until the block ends. The same thread may take the lock again inside.

    The folder is created if it does not exist. say: called once if the file system does not support locks; the run then
    continues without one. option: the argument that named the folder, for errors; None for the folder of a run, which
    `run.storage` and `run.name` decide. Raises InputError immediately if another driver holds the folder, or if it cannot
    be written.
    """
    if not isinstance(folder, Path):
        with bucket_lock.held(folder, lambda holder: _refusal(folder, holder, option), say):
            yield
        return
    resolved = folder.resolve()
    mine = _held.get(resolved)
    if mine and mine.thread == threading.get_ident():
        yield
        return
    taken = _take(folder, say, option)
    _held[resolved] = taken
    try:
        yield
    finally:
        if _held.pop(resolved, None) is taken:  # else this is a forked child, whose parent holds the folder
            _release(folder, taken)


def _take(folder: Path, say: Callable[[str], None], option: str | None) -> _Held:
    made = False
    for _ in range(_TRIES):
        descriptor = -1
        try:
            made = _make(folder, option) or made
            # O_CLOEXEC: processes that the driver starts, such as a local Ray cluster, may outlive the driver.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(folder / FILE, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # the folder was removed between the two calls
            continue
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise _refusal(folder, holder, option) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS or descriptor < 0:
                if descriptor >= 0:
                    os.close(descriptor)
                raise _unusable(folder, f"cannot be locked ({error.strerror})", option) from None
            say(
                "this file system does not support locks: make sure that only one start of this run is active"
            )
        # The file locks nothing if the previous holder has removed or moved it.
        if _is_at(descriptor, folder / FILE):
            _write_holder(descriptor)
            return _Held(descriptor, threading.get_ident(), made)
        os.close(descriptor)
    raise _refusal(folder, "", option)


def holder(folder: StoragePath) -> str | None:
    """Return who holds the run now, as a clause; None if nobody does, or if storage cannot tell."""
    if not isinstance(folder, Path):
        return bucket_lock.holder(folder)
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _make(folder: Path, option: str | None) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    except FileNotFoundError:  # this file system accepts no folders, else the parents would have been created
        raise _unusable(folder, "cannot be created", option) from None
    return True


def _unusable(folder: Path, why: str, option: str | None) -> InputError:
    fix = "use a folder that you may write to"
    if option is not None:
        return InputError(f"this folder {why}", file=folder, key=option, fix=fix)
    return InputError(f"the run folder {folder} {why}", key="run.storage", value=str(folder.parent), fix=fix)


def _release(folder: Path, taken: _Held) -> None:
    """Remove the lock file while it is locked, so that a start that has just opened it sees that it is outdated."""
    with suppress(OSError):
        if _is_at(taken.descriptor, folder / FILE):
            (folder / FILE).unlink()
            if taken.made:
                folder.rmdir()  # this succeeds only if the folder is empty
    os.close(taken.descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _write_holder(descriptor: int) -> None:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    with suppress(OSError):  # on a full disk, the message of a second start only lacks the holder
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    """Return who holds the lock, as a clause; empty if the holder has not written it yet."""
    try:
        found = storage.parse_json(os.pread(descriptor, 1000, 0), FILE)
        return f" on host {found['host']}, pid {found['pid']}, since {found['time']}"
    except (OSError, InputError, LookupError, TypeError):
        return ""


def _refusal(folder: StoragePath, holder: str, option: str | None) -> InputError:
    fix = (
        f"wait until it ends, stop it (Ctrl-C or TERM: it saves first), or use another {option or 'run.name'}"
    )
    if option is not None:
        return InputError(
            f"this folder is in use by another start of this command{holder}",
            file=folder,
            key=option,
            fix=fix,
        )
    return InputError(
        f"the run folder {folder} is in use by another start of this run{holder}",
        key="run.name",
        value=folder.name,
        fix=fix,
    )


def _forget() -> None:
    """Close the lock files in a forked child: it shares them, and with them the locks, until it closes them."""
    for one in _held.values():
        with suppress(OSError):
            os.close(one.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
