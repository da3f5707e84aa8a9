"""The input (Question) and the output (Finding) of the checks of `medray doctor`, and a function that runs all checks.

Everything in this folder that runs on a node is pickled by value (cluster.py), so that a node can be examined even if
medray is missing there or has another version. Therefore this code imports other parts of medray inside functions.
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
CHECK_SECONDS = 10.0  # limit for a check; a check that has not answered by then has failed


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check, as `medray doctor` prints it in a line.

    state: ok, warn (a run works, but with the disadvantage in `detail`) or fail. fix: an instruction, empty for ok.
    """

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
    """The input of the checks on one node: what the run will use.

    address: address of the Ray cluster, None for this machine only. storage: run.storage, a path or URL. models: names
    or folders of weights. tracking: MLflow's URI, "" for the one from the environment, None to skip the check. mark:
    the folder in the storage for the files of the check; first: the host that wrote the first file there; own: the
    name of the file that this node writes. ray_folder: the folder of Ray's files on the node. ray_gpus: number of GPUs
    that Ray offers on the node. seconds: limit for each check.
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
    """Run all checks at the same time, each in a thread that is abandoned when its time is over.

    emit: called with each finding as soon as it is known. Returns all findings in the order of `checks`.
    """
    answers: queue.Queue[tuple[str, list[Finding]]] = queue.Queue()

    def run(name: str, check: Check) -> None:
        try:
            found = check(question)
        except Exception as error:
            found = fail(name, f"this check could not be completed: {reason(error)}", _WHERE)
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
        found[name] = [
            fail(name, f"the check got no answer within {question.seconds:g} s", _LATE.get(name, _WHERE))
        ]
        emit(found[name][0])
    return [one for name in checks for one in found[name]]


_WHERE = "read about this line in docs/doctor.md, and run `medray doctor` on the node itself"
_LATE = {
    "storage": "check whether the server of the file system or bucket is up, for example with `df -h PATH`",
    "MLflow": "restart the server, which accepts connections but does not answer, or set tracking.enabled: false",
    "model": "check the network and the proxy, or download the model and set model.name to its folder",
    "gpu": "run medray doctor again, then try nvidia-smi: torch did not load, or the driver hangs",
}


_NO_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}


def reason(error: BaseException) -> str:
    """Describe an error without its text, which may quote a URL with a password."""
    if known := re.search(r"AWS Error ([A-Z_]+)", str(error)):
        return known[1]
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "medray":
        return "medray cannot be imported on the node"
    if isinstance(error, socket.gaierror):  # its number is not an errno
        return (
            "the name of the host is unknown" if error.errno in _NO_NAME else "the name cannot be looked up"
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
