"""The cause of a failed run in one line, from errors as Ray raises them, and which of them a restart of Ray Train may fix."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayTaskError,
    UserCodeException,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from medray.train.failure import FailureNews, first_failure, lost_controller

FULL = OutOfMemoryError(
    "8 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1) was 5.88GB used / "
    "23.54GB limit (0.249901)\nOOM kill reason: …\n- bytes spillable: 6700\nRefer to the documentation"
)
DIED = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
ENDED = WorkerHealthCheckFailedError("A worker health check failed.", FULL)
BUG = WorkerHealthCheckFailedError("A worker health check failed.", ValueError("first line\n\nlast line"))

TRACEBACK = """Traceback (most recent call last):
  File "x.py", line 1, in <lambda>
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

ray::MapBatches(<lambda>)() (pid=7, ip=10.0.0.1)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, see the documentation"""
IN_RAY_DATA = RayTaskError("MapBatches", TRACEBACK, UserCodeException("UDF failed")).as_instanceof_cause()


def preempted() -> ray.exceptions.RayActorError:
    error = ray.exceptions.RayActorError(preempted=True)
    assert error.preempted
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            WorkerGroupError("…", {0: DIED, 1: ENDED}),
            ("worker 1: ", "memory was full (5.88GB of 23.54GB used)"),
        ),
        (ControllerError(FULL), ("ended by Ray", "train.micro_batch_size")),
        (WorkerGroupError("…", {0: preempted()}), ("worker 0: ", "taken away")),
        (
            WorkerGroupError("…", {2: ValueError("first line\n\nlast line")}),
            ("worker 2: ValueError: last line",),
        ),
        (ValueError(), ("ValueError",)),
        (
            ActorDiedError(),
            ("Ray lost a process of this run: its node or the Ray cluster ended", "(ActorDiedError)"),
        ),
        (ray.exceptions.RpcError("failed to connect " + 500 * "x"), ("does not answer (RpcError)",)),
        (IN_RAY_DATA, ("OSError: [Errno 28] No space left on device",)),
    ],
)
def test_the_cause_is_reported_in_one_line(error: Exception, says: tuple[str, ...]) -> None:
    said = first_failure(error)
    assert all(part in said for part in says), said
    assert "\n" not in said
    assert len(said) < 200
    assert "Refer to" not in said
    assert "UserCode" not in said


@pytest.mark.parametrize(
    ("error", "mends"),
    [
        (ControllerError(FULL), True),
        (FULL, True),
        (ActorDiedError(), True),
        (ActorUnavailableError("no answer", None), False),  # Ray raises this when the head has died
        (ControllerError(ValueError("wrong")), False),
        (WorkerGroupError("…", {0: ENDED}), False),  # Ray Train has used up its own retries for these
        (ValueError("wrong"), False),
    ],
)
def test_another_start_helps_only_if_ray_trains_controller_died(error: Exception, mends: bool) -> None:
    assert lost_controller(error) is mends


def test_the_ledger_is_told_why_workers_restart() -> None:
    told: list[Any] = []

    class Method:
        def remote(self, record: Any) -> None:
            told.append(record)

    class Ledger:
        event = Method()

    FailureNews(Ledger()).after_exception(None, {0: BUG, 1: ENDED})
    (record,) = told
    assert record["kind"] == "failure"
    assert record["text"].startswith("worker 1: ended by Ray")
