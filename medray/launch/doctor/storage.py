"""Check that run.storage supports what a run needs, on one machine or on all nodes of a cluster.

The first process writes a file and holds a lock. Each node then reads that file; writes, reads back and renames a file
of its own; and tries to take the lock, which must fail. At the end, the first process looks for the files of the
nodes. All files are in one folder, which is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medray.launch.doctor.finding import Finding, Question, fail, ok, reason, warn

FIRST, LOCK, CONTENT = "first", "lock", b"medray doctor wrote this, and removes it\n"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
_WRITE = "give the user of this run the right to write to the storage, or use another run.storage"
_SHARE = "mount the same file system at this path on every node, or use run.storage: s3://bucket/prefix"
_BUCKET = "check the bucket's name, the network and the AWS_* variables, which every node needs"


def new_mark() -> str:
    """Return a new name for the folder that a check of storage writes to."""
    return f".medray-doctor-{secrets.token_hex(6)}"


def is_bucket(storage: str) -> bool:
    return storage.startswith(("s3://", "s3a://"))


def storage(question: Question) -> Finding:
    """Check the storage on this machine only: a child process holds the lock, and this process acts as the only node."""
    question = replace(question, mark=question.mark or new_mark())
    try:
        with begun(question):
            return of_node(question)
    except Exception as error:
        return unusable(question, error)


def unusable(question: Question, error: BaseException) -> Finding:
    """Return the finding for a storage to which the first process cannot write."""
    way = _BUCKET if is_bucket(question.storage or "") else _WRITE
    return fail("storage", f"{question.storage} cannot be written: {reason(error)}", way)


@contextlib.contextmanager
def begun(question: Question) -> Iterator[None]:
    """Write a file to the storage and hold a lock on it while the block runs, for the checks of the nodes. Raises OSError."""
    assert question.storage
    if is_bucket(question.storage):
        folder = _in_bucket(question)
        from medray import storage as bucket

        bucket.write(folder / FIRST, CONTENT)
        try:
            yield
        finally:
            bucket.remove_tree(folder)
        return
    path = Path(question.storage) / question.mark
    made = [parent for parent in path.parents if not parent.exists()]
    path.mkdir(parents=True)
    holder = None
    try:
        (path / FIRST).write_bytes(CONTENT)
        holder = _lock_holder(path / LOCK)
        yield
    finally:
        if holder:
            holder.kill()
            holder.communicate()
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may have written to the folder
            for parent in made:
                parent.rmdir()


def _lock_holder(file: Path) -> subprocess.Popen[bytes]:
    """Start a process that takes the lock, if the file system supports locks. It ends with this process."""
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdout
    holder.stdout.readline()
    return holder


def of_node(question: Question) -> Finding:
    """Check the storage from one node, while another process is inside `begun`."""
    assert question.storage
    if is_bucket(question.storage):
        return _of_bucket(question)
    path = Path(question.storage) / question.mark
    other = question.first or "another process"
    try:
        if (path / FIRST).read_bytes() != CONTENT:
            return fail(
                "storage",
                f"{question.storage}: the file that {other} wrote has other content on this node",
                _SHARE,
            )
    except FileNotFoundError:
        return fail(
            "storage",
            f"{question.storage} is not shared: the file that {other} wrote does not exist on this node",
            _SHARE,
        )
    except OSError as error:
        return fail(
            "storage",
            f"{question.storage}: the file that {other} wrote cannot be read: {reason(error)}",
            _WRITE,
        )
    part, own = path / f"{question.own}.part", path / question.own
    try:
        with part.open("wb") as stream:
            stream.write(CONTENT)
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(own)
        back = own.read_bytes()
    except OSError as error:
        return fail("storage", f"{question.storage} cannot be written: {reason(error)}", _WRITE)
    if back != CONTENT:
        return fail("storage", f"{question.storage}: a written file has other content when read back", _SHARE)
    return _of_lock(question, path / LOCK, other)


def _of_lock(question: Question, file: Path, other: str) -> Finding:
    import fcntl

    way = "start a run from one machine at a time, or mount the storage with locks (NFS 4, Lustre with flock)"
    try:
        with file.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ok("storage", f"{question.storage} works: a file was written, read back, renamed and locked")
    except OSError as error:
        if error.errno in NO_LOCKS:
            return warn(
                "storage",
                f"{question.storage} does not support locks, so medray cannot notice two starts of one run",
                way,
            )
        return fail("storage", f"{question.storage} cannot be locked: {reason(error)}", _WRITE)
    return warn(
        "storage",
        f"{question.storage}: the lock that {other} holds has no effect on this node, so medray cannot notice two starts of one run",
        way,
    )


def missing_here(question: Question, nodes: dict[str, str]) -> list[str]:
    """Return the nodes whose files this process does not see. nodes: file → node, for each node that wrote its file."""
    assert question.storage
    folder: Any = (
        _in_bucket(question) if is_bucket(question.storage) else Path(question.storage) / question.mark
    )
    missing = []
    for own, node in nodes.items():
        try:
            if (folder / own).read_bytes() != CONTENT:
                missing.append(node)
        except OSError:
            missing.append(node)
    return missing


def not_seen(question: Question, node: str, here: str) -> Finding:
    """Return the finding for a node whose file is not visible on the machine that will drive the run."""
    detail = f"{question.storage} is not shared: {here} does not see the file that this node wrote"
    return replace(fail("storage", detail, _SHARE), node=node)


def _in_bucket(question: Question) -> Any:
    from medray import storage as bucket

    return bucket.at(question.storage or "") / question.mark


def _of_bucket(question: Question) -> Finding:
    from medray import storage as bucket

    folder = _in_bucket(question)
    try:
        first = (folder / FIRST).read_bytes()
        bucket.write(folder / f"{question.own}.part", CONTENT)
        bucket.move(folder / f"{question.own}.part", folder / question.own)
        back = (folder / question.own).read_bytes()
        listed = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        other = question.first or "another process"
        return fail(
            "storage",
            f"{question.storage}: the file that {other} wrote does not exist; this node may use another endpoint",
            _BUCKET,
        )
    except OSError as error:
        return fail("storage", f"{question.storage} cannot be used: {reason(error)}", _BUCKET)
    if first != CONTENT or back != CONTENT or question.own not in listed:
        return fail(
            "storage",
            f"{question.storage}: a file that was just written is not read or listed correctly, which a run needs",
            "use a service with strong consistency, such as S3, and no cache in front of it",
        )
    return _of_condition(question, folder.key)


def _of_condition(question: Question, folder: str) -> Finding:
    from medray.launch.doctor.conditional_put import keys, put_new

    detail = f"{question.storage} works: an object was written, read back, moved and listed"
    using = keys()
    if using is None:
        return ok(
            "storage",
            f"{detail}; a conditional put (write only if absent) was not tried, because there are no credentials",
        )
    bucket, _, key = f"{folder}/{question.own}.once".partition("/")
    try:
        statuses = (put_new(bucket, key, using), put_new(bucket, key, using))
    except OSError as error:
        return warn("storage", f"{detail}; a conditional put got no answer: {reason(error)}", _BUCKET)
    if statuses == (200, 412):
        return ok("storage", f"{detail}; conditional puts (write only if absent) work")
    return warn(
        "storage",
        f"{detail}; conditional puts are not supported (HTTP {statuses[0]}, {statuses[1]}): the lock of a run relies on "
        "listings only",
        "do not start one run from two machines in the same second, or update the service",
    )
