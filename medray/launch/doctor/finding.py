"""What a check of `medray doctor` is asked and answers, and how all checks of a node are run at once.

Everything in this folder that runs on a node is sent there by value (cluster.py), so that a node whose medray is missing
or of another version is examined too. What it needs of medray it imports inside functions.
"""

from __future__ import annotations

import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

OK, WARN, FAIL = "ok", "warn", "fail"
CHECK_SECONDS = 10.0  # of any one check; what has not answered by then has failed


@dataclass(frozen=True, kw_only=True)
class Finding:
    """state: ok, warn (a run works, read why it may disappoint) or fail. fix: an instruction; of ok, empty."""

    name: str
    state: str
    detail: str
    fix: str = ""
    node: str = ""

    def on(self, node: str) -> Finding:
        return replace(self, node=self.node or node)

    def as_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a node.

    address: of the Ray cluster, None: this machine alone. storage: run.storage, as a path or URL. models: names or folders
    of weights. tracking: MLflow's URI, "" for the one of the environment, None: not asked. mark: the folder in the storage
    where the check of it writes; first: who has written a file there before; own: the name of the node's file. ray_folder:
    Ray's files on the node. ray_gpus: what Ray offers on it. seconds: that one check may take.
    """

    address: str | None = None
    storage: str | None = None
    models: tuple[str, ...] = ()
    tracking: str | None = None
    mark: str = ""
    first: str = ""
    own: str = "own"
    ray_folder: str | None = None
    ray_gpus: float | None = None
    seconds: float = CHECK_SECONDS


Check = Callable[[Question], Finding | list[Finding]]


def ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state=OK, detail=detail)


def warn(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, state=WARN, detail=detail, fix=fix)


def fail(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, state=FAIL, detail=detail, fix=fix)


def examine(
    checks: Mapping[str, Check], question: Question, emit: Callable[[Finding], None] = lambda found: None
) -> list[Finding]:
    """Run all checks at once, each in a thread that is left behind when its time is over.

    emit: called with each finding as it comes. Returns all, in the order of `checks`.
    """
    answers: queue.Queue[tuple[str, list[Finding]]] = queue.Queue()

    def run(name: str, check: Check) -> None:
        try:
            found = check(question)
        except Exception as error:
            found = fail(name, f"the check failed: {reason(error)}", _WHERE)
        answers.put((name, found if isinstance(found, list) else [found]))

    for name, check in checks.items():
        threading.Thread(target=run, args=(name, check), daemon=True).start()
    end = time.monotonic() + question.seconds
    found: dict[str, list[Finding]] = {}
    while len(found) < len(checks):
        try:
            name, answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        found[name] = answer
        for one in answer:
            emit(one)
    for name in [name for name in checks if name not in found]:
        found[name] = [fail(name, f"no answer within {question.seconds:g} s", _LATE.get(name, _WHERE))]
        emit(found[name][0])
    return [one for name in checks for one in found[name]]


_WHERE = "read docs/doctor.md on this line, and run `medray doctor` on that node itself"
_LATE = {
    "storage": "the file system or bucket hangs: look whether its server is up, with: df -h PATH",
    "MLflow": "the server takes connections and does not answer: restart it, or set tracking.enabled: false",
    "model": "the model hub does not answer: look at the network and proxy, or download the model and name its folder",
    "gpu": "torch did not load, or the driver hangs: run it again, then try nvidia-smi",
}


_NO_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}


def reason(error: BaseException) -> str:
    """What may be told of an error whose text may quote a URL with a password."""
    if known := re.search(r"AWS Error ([A-Z_]+)", str(error)):
        return known[1]
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "medray":
        return "medray cannot be imported there"
    if isinstance(error, socket.gaierror):  # its number is no errno
        return (
            "the name of the host is not known" if error.errno in _NO_NAME else "the name cannot be looked up"
        )
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return type(error).__name__


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
