"""One driver a run folder: a lock that the kernel frees when its holder dies, however it dies.

The lock is flock(2) on `<run folder>/.lock`. Host, process and time of the holder stand in the file, for the message alone:
what they say is never trusted. The file goes when the holder ends in order; what a killed one leaves locks nothing. A bucket has no such lock: train/run_folder/bucket_lock.py.

Covered: two drivers on one machine; two hosts on a shared folder whose file system passes flock on (NFS 3 with its lock
service, NFS 4, Lustre mounted with `flock`, CephFS, GPFS). Of a host that lost its power an NFS server forgets the lock
when its lease runs out, after a minute or two. Not covered: mounts that lock on their own host alone (`nolock`,
`local_lock=flock`, Lustre's `localflock`) or not at all (the console says so), and the workers that a killed driver leaves
on a cluster of others: Ray ends them seconds later.
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
_TRIES = 100  # each lost to a holder that ended in that very moment


@dataclass(frozen=True)
class _Held:
    """made: the folder was not there before."""

    descriptor: int
    thread: int
    made: bool


_held: dict[Path, _Held] = {}  # of this process, by resolved folder


@contextmanager
def held(folder: StoragePath, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """The run folder is this thread's until the block ends; it may take it again inside. Makes the folder.

    say: told once where the file system knows no locks; the run then goes on without one. Raises InputError, at once,
    where another driver has the folder, or when it cannot be written.
    """
    if not isinstance(folder, Path):
        with bucket_lock.held(folder, lambda holder: _refusal(folder, holder), say):
            yield
        return
    place = folder.resolve()
    mine = _held.get(place)
    if mine and mine.thread == threading.get_ident():
        yield
        return
    taken = _take(folder, say)
    _held[place] = taken
    try:
        yield
    finally:
        if _held.pop(place, None) is taken:  # else this is a forked child, and the folder is its parent's
            _release(folder, taken)


def _take(folder: Path, say: Callable[[str], None]) -> _Held:
    made = False
    for _ in range(_TRIES):
        descriptor = -1
        try:
            made = _make(folder) or made
            # O_CLOEXEC: what the driver starts, a local Ray cluster first of all, may live longer than it does.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(folder / FILE, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # removed between the two
            continue
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise _refusal(folder, holder) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS or descriptor < 0:
                if descriptor >= 0:
                    os.close(descriptor)
                raise _unusable(folder, f"cannot be locked ({error.strerror})") from None
            say("this file system knows no locks: see to it yourself that this run is started once at a time")
        # A file that is no longer there under its name locks nothing: the one before has removed or moved it.
        if _is_at(descriptor, folder / FILE):
            _write_holder(descriptor)
            return _Held(descriptor, threading.get_ident(), made)
        os.close(descriptor)
    raise _refusal(folder, "")


def holder(folder: StoragePath) -> str | None:
    """Who has the run now, as a part of a sentence; None where nobody has it, or storage does not say."""
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


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    except FileNotFoundError:  # of a file system that takes no folders: the parents would be made
        raise _unusable(folder, "cannot be made") from None
    return True


def _unusable(folder: Path, why: str) -> InputError:
    return InputError(
        f"the run folder {folder} {why}",
        key="run.storage",
        value=str(folder.parent),
        fix="name a folder that you may write",
    )


def _release(folder: Path, taken: _Held) -> None:
    """Removed while it is locked, so that whoever opened it meanwhile sees that it is no longer the one."""
    with suppress(OSError):
        if _is_at(taken.descriptor, folder / FILE):
            (folder / FILE).unlink()
            if taken.made:
                folder.rmdir()  # where nothing came into it
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
    with suppress(OSError):  # a full disk makes the message of the second start poorer, and stops nothing
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    """Who has it, as a part of a sentence; empty where it has not said so yet."""
    try:
        found = storage.parse_json(os.pread(descriptor, 1000, 0), FILE)
        return f" on host {found['host']}, pid {found['pid']}, since {found['time']}"
    except (OSError, InputError, LookupError, TypeError):
        return ""


def _refusal(folder: StoragePath, holder: str) -> InputError:
    return InputError(
        f"the run folder {folder} is in use by another start of this run{holder}",
        key="run.name",
        value=folder.name,
        fix="wait until it ends, stop it (Ctrl-C or TERM: it saves first), or use another run.name",
    )


def _forget() -> None:
    """A forked child shares the open file, and with it the lock, until it closes it."""
    for one in _held.values():
        with suppress(OSError):
            os.close(one.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
