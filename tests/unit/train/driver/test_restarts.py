"""When the driver starts Ray Train again itself, with Ray Train's answers given by the test."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError

from medray.errors import InputError, MedrayError, RunFailedError
from medray.train.driver import fit
from medray.train.loop.finish import WorkerResult
from medray.train.loop.step import Progress

DONE, LEFT = (WorkerResult(status, Progress(), None, {}) for status in ("done", "preempted"))
FULL = ControllerError(OutOfMemoryError("killed due to the node running low on memory"))


class Phases:
    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        self.said.append(f"{name}: {detail}")

    def beat(self) -> None:
        pass


def run(answers: list[Any], max_failures: int = 2) -> tuple[WorkerResult, list[str]]:
    """Return the run's result of Ray Train's answers, one for each start, and what was told."""

    def once() -> fit.Returned:
        answer = answers.pop(0)
        if isinstance(answer, Exception) and not isinstance(answer, MedrayError):
            raise answer
        found: fit.Returned = answer
        return found

    phases = Phases()
    return fit.result_of(fit.with_restarts(once, max_failures, phases)), phases.said


def test_workers_that_left_for_a_node_are_started_again_however_often() -> None:
    found, said = run([LEFT] * 5 + [DONE], max_failures=0)
    assert found == DONE
    assert said == ["restart: on the nodes that stay"] * 5


def test_what_ray_train_needs_may_die_as_often_as_workers_may() -> None:
    found, said = run([FULL, LEFT, ActorDiedError(), DONE])
    assert found == DONE
    assert "memory was full" in said[0]
    with pytest.raises(RunFailedError, match=r"memory was full.*Run the same command again"):
        run([FULL, FULL, FULL, DONE])


def test_what_another_start_cannot_fix_ends_the_run() -> None:
    with pytest.raises(RunFailedError, match="ValueError: wrong"):
        run([ControllerError(ValueError("wrong")), DONE])
    with pytest.raises(RunFailedError, match="without a result"):
        run([None, DONE])
    with pytest.raises(RunFailedError, match="a loss that is no number"):
        run([RunFailedError("a loss that is no number"), DONE])
    with pytest.raises(InputError, match="too many rows"):
        run([InputError("too many rows", key="data.train", value=3, fix="fewer"), DONE])
