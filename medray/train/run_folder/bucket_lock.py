"""One driver a run in a bucket: an object that says who has the run, written anew every few seconds while its holder lives.

A bucket has no lock that a kernel frees. So each start puts a claim of its own, and looks at the others: a claim that is
written anew is of a start that lives, and the newcomer is refused; one that stays as it is for LEASE_SECONDS is of one that
was killed, and goes. Two that come at the same moment see each other, since S3 lists what was put before, and both are
refused: never do two hold one run. Ages are told by the times that the server gives, not by any clock of ours.

Claims lie beside the run's folder, `<storage>/.lock/<run>/<claim>`, so a run that is put aside takes none along; and a
start removes its own and those of killed ones, never the folder: another's may have come into it that very moment.

Not covered: a holder that stands still, or cannot reach storage, for longer than the lease, and then goes on. Its checkpoints
are in folders of its own, so even then none is mixed with another's.
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

_held: dict[S3Path, int] = {}  # of this process: the thread that has the run


@contextmanager
def held(
    folder: S3Path, refusal: Callable[[str], InputError], say: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """The run is this thread's until the block ends; it may take it again inside.

    refusal: the error for a run that another start has, from a part of a sentence that says which. say: told once where
    a killed start's claim is waited for. Raises InputError where storage cannot be asked.
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
        with suppress(OSError):  # one that stays goes with its lease
            claim.unlink(missing_ok=True)


def claims_of(folder: S3Path) -> S3Path:
    """Where the claims on a run's folder lie."""
    return folder.parent / FOLDER / folder.name


def holder(folder: S3Path) -> str | None:
    """Who has the run now, as a part of a sentence; None where nobody has written a claim within the lease.

    By this machine's clock: one that is wrong by more than SKEW_SECONDS tells a living start from a dead one wrongly.
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
        if now is None:  # we stood still between the two for so long that another took us for killed
            continue
        for name in [name for name, written in claims.items() if now - written >= LEASE_SECONDS]:
            (claim.parent / name).unlink(missing_ok=True)
            del claims[name]
        if not claims:
            return
        if seen is None:
            seen = claims
            say("another start had this run a moment ago: waiting until it is known whether it lives")
        if alive := [name for name, written in claims.items() if written != seen.get(name)]:
            holder = _holder(claim.parent / alive[0])
            claim.unlink(missing_ok=True)
            raise refusal(holder)
        pause.wait(LOOK_SECONDS)


def _claims(folder: S3Path) -> dict[str, float]:
    """When each claim was written, in the server's seconds."""
    from pyarrow import fs

    found = folder.filesystem.get_file_info(fs.FileSelector(folder.key, allow_not_found=True))
    return {entry.base_name: entry.mtime.timestamp() for entry in found if entry.type == fs.FileType.File}


def _put(claim: S3Path) -> None:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    storage.write(claim, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": now}))


def _renew(claim: S3Path, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with suppress(OSError):  # storage that is away for a while ends no run
            _put(claim)


def _holder(claim: S3Path) -> str:
    try:
        found = storage.read_json(claim)
        return f" on host {found['host']}, pid {found['pid']}, seen at {found['time']}"
    except (OSError, InputError, LookupError, TypeError):
        return ""
