"""The lock of a run in a bucket: at most one driver holds a run, by an object (a claim) that it rewrites every few seconds.

A bucket has no lock that a kernel releases. So each start writes its own claim and reads those of other starts. If another
claim is rewritten meanwhile, its start is alive, and the new start is refused. A claim that is not rewritten for
LEASE_SECONDS belongs to a killed start and is deleted. Two starts at the same moment see each other's claims, because S3
lists every object that was written before, and both are refused: two starts never hold the same run. Ages are computed from
the server's timestamps, not from a local clock.

Claims are stored outside the run's folder, at `<storage>/.lock/<run>/<claim>`, so moving a run folder away moves no claim. A
start deletes its own claim and those of killed starts, but never the claims folder, where another start may write at any
moment.

Not covered: a holder that hangs, or cannot reach storage, for longer than the lease and then continues. Its checkpoints
are in its own folders, so even then they never mix with those of another start.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from medray import storage
from medray.errors import InputError
from medray.storage import S3Path

FOLDER = ".lock"
LEASE_SECONDS, RENEW_SECONDS, LOOK_SECONDS = 20.0, 4.0, 1.0
SKEW_SECONDS = 30.0

_held: dict[S3Path, int] = {}  # runs that this process holds, and the id of the thread that holds each


@contextmanager
def held(
    folder: S3Path, refusal: Callable[[str], InputError], say: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """Hold the lock of a run for this thread until the block ends. The same thread may take it again inside.

    refusal: makes the error for a run that another start holds, from a clause that names the holder. say: called once
    while waiting for the claim of a start that may have been killed. Raises InputError if storage cannot be reached.
    """
    if _held.get(folder) == threading.get_ident():
        yield
        return
    claim = claims_of(folder) / secrets.token_hex(8)
    try:
        _take(claim, refusal, say)
    except OSError as error:
        raise storage.unreachable(folder, error) from None
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(claim, ended), name="lease", daemon=True)
    renewal.start()
    _held[folder] = threading.get_ident()
    try:
        yield
    finally:
        _held.pop(folder)
        ended.set()
        renewal.join()
        with suppress(OSError):  # a claim that remains expires with its lease
            claim.unlink(missing_ok=True)


def claims_of(folder: S3Path) -> S3Path:
    """Return the folder of the claims on a run."""
    return folder.parent / FOLDER / folder.name


def holder(folder: S3Path) -> str | None:
    """Return who holds the run now, as a clause; None if no claim was written within the lease.

    This uses the local clock: if it is off by more than SKEW_SECONDS, the answer may be wrong.
    """
    now = time.time()
    alive = [
        name
        for name, written in _claims(claims_of(folder)).items()
        if now - written < LEASE_SECONDS + SKEW_SECONDS
    ]
    return _holder(claims_of(folder) / alive[0]) if alive else None


def _take(claim: S3Path, refusal: Callable[[str], InputError], say: Callable[[str], None]) -> None:
    seen: dict[str, float] | None = None
    pause = threading.Event()
    while True:
        _put(claim)
        claims = _claims(claim.parent)
        now = claims.pop(claim.name, None)
        if now is None:  # this process hung between the two calls, so another start deleted its claim
            continue
        for name in [name for name, written in claims.items() if now - written >= LEASE_SECONDS]:
            (claim.parent / name).unlink(missing_ok=True)
            del claims[name]
        if not claims:
            return
        if seen is None:
            seen = claims
            say("another start held this run a moment ago: waiting to see whether it is still alive")
        if alive := [name for name, written in claims.items() if written != seen.get(name)]:
            holder = _holder(claim.parent / alive[0])
            claim.unlink(missing_ok=True)
            raise refusal(holder)
        pause.wait(LOOK_SECONDS)


def _claims(folder: S3Path) -> dict[str, float]:
    """Return when each claim was written, in seconds of the server's clock."""
    from pyarrow import fs

    found = folder.filesystem.get_file_info(fs.FileSelector(folder.key, allow_not_found=True))
    return {entry.base_name: entry.mtime.timestamp() for entry in found if entry.type == fs.FileType.File}


def _put(claim: S3Path) -> None:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    storage.write(claim, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": now}))


def _renew(claim: S3Path, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with suppress(OSError):  # a short storage outage must not end the run
            _put(claim)


def _holder(claim: S3Path) -> str:
    try:
        found = storage.read_json(claim)
        return f" on host {found['host']}, pid {found['pid']}, seen at {found['time']}"
    except (OSError, InputError, LookupError, TypeError):
        return ""
