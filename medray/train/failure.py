"""The cause of a failed run or worker group in one line, and whether a restart may help.

Ray wraps a worker's error in its own errors, whose messages contain tracebacks and tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
from ray.train import UserCallback

_USED = re.compile(r"was ([\d.]+ ?GB) used / ([\d.]+ ?GB) limit")
_LONGEST = 500
_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RpcError,
    ray.exceptions.WorkerCrashedError,
)
# Ray Data replaces our error by its own, and only the traceback in its message still contains ours.
_RAISED = re.compile(r"^((?:\w+\.)*(?!UserCode|RayTask)\w*(?:Error|Exception)\b.*)$", re.MULTILINE)


class FailureNews(UserCallback):
    """A callback that tells the ledger why a worker group ended. Ray Train calls it in its controller before a restart."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._ledger.event.remote({"kind": "failure", "text": said_of_workers(worker_exceptions)})


def first_failure(error: BaseException) -> str:
    """Return why a run failed, in one line: the worker's error with a known cause, else that of the lowest rank."""
    failures = getattr(error, "worker_failures", None)
    return said_of_workers(failures) if failures else last_line(error)


def said_of_workers(failures: dict[int, Any]) -> str:
    """Return one line for errors by rank: the error with a known cause, because the other ranks fail as a consequence."""
    ranks = sorted(failures)
    known = next((rank for rank in ranks if known_cause(failures[rank])), ranks[0])
    return f"worker {known}: {last_line(failures[known])}"


def last_line(error: BaseException) -> str:
    """Return the type and the message of an error, without the traceback that Ray writes into messages."""
    if known := known_cause(error):
        return known
    outermost, (*_, error) = error, _chain(error)
    if isinstance(error, _LOST):
        # The text of Ray has 500 characters of addresses and stacks.
        return f"Ray lost a process of this run: its node or the Ray cluster ended or does not answer ({type(error).__name__})"
    if isinstance(error, ray.exceptions.UserCodeException) and (found := _RAISED.findall(str(outermost))):
        return str(found[-1])[:_LONGEST]
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:_LONGEST]}" if lines else type(error).__name__


def known_cause(error: BaseException) -> str | None:
    """Return the cause if Ray knows it: memory ran out, or a node was preempted."""
    for one in _chain(error):
        if isinstance(one, ray.exceptions.OutOfMemoryError):
            found = _USED.search(str(one))
            used = f" ({found[1]} of {found[2]} used)" if found else ""
            return (
                f"ended by Ray because its node's memory was full{used}: use a smaller train.micro_batch_size, "
                "fewer workers per node or a node with more memory"
            )
        if isinstance(one, ray.exceptions.RayActorError) and one.preempted:
            return "its node was taken away (preempted)"
    return None


def lost_controller(error: BaseException) -> bool:
    """Return whether Ray Train's own controller has died. Ray Train does not retry this, but another `fit` may succeed.

    Ray 2.60 also ends this way if a worker ran out of memory, because its clean-up of the old group does not expect that
    error. An actor that only does not answer is not included: if the whole cluster has died, another `fit` would wait
    for it.
    """
    if isinstance(error, ray.train.ControllerError):
        error = error.controller_failure
    return isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.OutOfMemoryError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that it wraps, outermost first."""
    wrapped: Any = error
    while isinstance(wrapped, BaseException):
        yield wrapped
        names = ("controller_failure", "health_check_failure", "cause")
        wrapped = next((getattr(wrapped, name) for name in names if getattr(wrapped, name, None)), None)
