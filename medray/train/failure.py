"""Why a run or a group of workers failed, in one line, and whether starting it again may help.

Ray wraps a worker's error in its own, with tracebacks and tables inside the message.
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
# Ray Data raises an error of its own from ours, and only the traceback in its message still has ours.
_RAISED = re.compile(r"^((?:\w+\.)*(?!UserCode|RayTask)\w*(?:Error|Exception)\b.*)$", re.MULTILINE)


class FailureNews(UserCallback):
    """Tells the ledger why a group of workers ended. Ray Train runs it in its controller, before it starts another."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._ledger.event.remote({"kind": "failure", "text": said_of_workers(worker_exceptions)})


def first_failure(error: BaseException) -> str:
    """The first worker's own error, in one line."""
    failures = getattr(error, "worker_failures", None)
    return said_of_workers(failures) if failures else last_line(error)


def said_of_workers(failures: dict[int, Any]) -> str:
    """One line of errors by rank: of the cause where it is known, for the others fail only because one did."""
    ranks = sorted(failures)
    known = next((rank for rank in ranks if known_cause(failures[rank])), ranks[0])
    return f"worker {known}: {last_line(failures[known])}"


def last_line(error: BaseException) -> str:
    """Kind and message, without the traceback that Ray writes into messages."""
    if known := known_cause(error):
        return known
    outermost, (*_, error) = error, _chain(error)
    if isinstance(error, _LOST):
        # Ray's own text has 500 characters of addresses and stacks.
        return f"Ray lost a process of this run: its node or the Ray cluster ended or does not answer ({type(error).__name__})"
    if isinstance(error, ray.exceptions.UserCodeException) and (found := _RAISED.findall(str(outermost))):
        return str(found[-1])[:_LONGEST]
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:_LONGEST]}" if lines else type(error).__name__


def known_cause(error: BaseException) -> str | None:
    """What happened, where Ray knows it: memory ran out, or a node was taken away."""
    for one in _chain(error):
        if isinstance(one, ray.exceptions.OutOfMemoryError):
            found = _USED.search(str(one))
            used = f" ({found[1]} of {found[2]} used)" if found else ""
            return (
                f"ended by Ray, as its node's memory was full{used}: use a smaller train.micro_batch_size, "
                "fewer workers a node or a node with more memory"
            )
        if isinstance(one, ray.exceptions.RayActorError) and one.preempted:
            return "its node was taken away (preempted)"
    return None


def lost_controller(error: BaseException) -> bool:
    """Whether something that Ray Train itself needs has died: its own retries do not cover that, another `fit` does.

    Ray 2.60 counts a worker that was ended for memory so too: its clean-up of the old group does not expect that error.
    An actor that only does not answer is none of these: where the whole cluster has died, another `fit` would wait for it.
    """
    if isinstance(error, ray.train.ControllerError):
        error = error.controller_failure
    return isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.OutOfMemoryError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, outermost first."""
    wrapped: Any = error
    while isinstance(wrapped, BaseException):
        yield wrapped
        names = ("controller_failure", "health_check_failure", "cause")
        wrapped = next((getattr(wrapped, name) for name in names if getattr(wrapped, name, None)), None)
