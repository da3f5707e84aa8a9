"""When the driver starts Ray Train again itself, with Ray Train's answers given by the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError

from medray.config import Config
from medray.errors import InputError, RunFailedError
from medray.train import driver

DONE: dict[str, Any] = {"status": "done"}
LEFT: dict[str, Any] = {"status": "preempted"}
FULL = ControllerError(OutOfMemoryError("killed due to the node running low on memory"))


class Phases:
    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        self.said.append(f"{name}: {detail}")


def fit(answers: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, max_failures: int = 2) -> Any:
    """What the run makes of Ray Train's answers, one a start, and what the console was told."""

    def once(*_: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    for name in (
        "WORKER_GROUP_START_TIMEOUT_S",
        "WORKER_HEALTH_CHECK_TIMEOUT_S",
        "PREEMPTION_POLL_INTERVAL_S",
    ):
        monkeypatch.setenv(f"RAY_TRAIN_{name}", "1")  # so that the driver's own are undone
    config = Config(run={"storage": str(folder)}, cluster={"max_failures": max_failures})  # type: ignore[arg-type]
    console: Any = Phases()
    one = driver._Driver(config, [], console, driver.StopSwitch())
    monkeypatch.setattr(one, "_fit_once", once)
    nothing: Any = None
    return one._fit(nothing, nothing, nothing, nothing), console.said


def test_workers_that_left_for_a_node_are_started_again_however_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = fit([LEFT] * 5 + [DONE], tmp_path, monkeypatch, max_failures=0)
    assert found == DONE
    assert said == ["restart: on the nodes that stay"] * 5


def test_what_ray_train_needs_may_die_as_often_as_workers_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = fit([FULL, LEFT, ActorDiedError(), DONE], tmp_path, monkeypatch)
    assert found == DONE
    assert "memory was full" in said[0]
    with pytest.raises(RunFailedError, match=r"memory was full.*Run the same command again"):
        fit([FULL, FULL, FULL, DONE], tmp_path, monkeypatch)


def test_what_another_start_cannot_fix_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailedError, match="ValueError: wrong"):
        fit([ControllerError(ValueError("wrong")), DONE], tmp_path, monkeypatch)
    with pytest.raises(RunFailedError, match="without a result"):
        fit([None, DONE], tmp_path, monkeypatch)
    with pytest.raises(RunFailedError, match="a loss that is no number"):
        fit([{"run_error": "a loss that is no number"}, DONE], tmp_path, monkeypatch)
    with pytest.raises(InputError, match="too many rows"):
        fit([{"input_error": ("too many rows", None, "data.train", 3, "fewer")}, DONE], tmp_path, monkeypatch)
