"""A trial's run hears a pause at once, and a stop of its own only while it computes steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from medray.report.console import Console
from medray.tune.board import PAUSE, Board
from medray.tune.trial import TrialConsole, TrialSwitch, done


class Silent:
    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool:
        return False


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The results that Ray Tune gets."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", found.append)
    return found


def console(switch: TrialSwitch, metric: str = "rougeL") -> TrialConsole:
    return TrialConsole(Console(Silent()), 7, metric, None, switch)


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": 0.5, "seconds": 0.1}


def test_a_stop_of_one_trial_waits_for_its_steps_and_never_takes_its_export() -> None:
    switch = TrialSwitch()
    shown = console(switch)
    switch.order = "asha at 10 % of the run"
    assert switch.reason is None, "its workers start"
    shown.show({"kind": "phase", "name": "training"}, total_steps=3)
    assert switch.reason == "asha at 10 % of the run"
    shown.show({"kind": "waiting", "text": "shard 1"}, total_steps=3)
    assert switch.reason is None
    shown.show(step(2), total_steps=3)
    assert switch.reason is not None
    switch.order, switch.on_request = None, True
    assert switch.reason == "request"
    shown.show(step(3), total_steps=3)
    assert switch.reason is None, "its last step is computed, so it exports"
    shown.show({"kind": "phase", "name": "export"}, total_steps=3)
    assert switch.reason is None
    switch.order = PAUSE
    assert switch.reason == PAUSE, "the next start of the search exports"


def test_evaluations_with_the_metric_are_reported_with_their_progress(reported: list[dict[str, Any]]) -> None:
    shown = console(TrialSwitch())
    for number, metrics in ((0, {"rougeL": 0.1}), (5, {"loss": 1.0, "rougeL": 0.2}), (10, {"loss": 0.9})):
        shown.show({"kind": "evaluation", "step": number, "metrics": metrics}, total_steps=20)
    assert reported == [{"number": 7, "value": 0.2, "progress": 25.0}]


def test_evaluations_of_an_earlier_start_are_reported_again(
    tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    lines = [{"step": number, "metrics": {"rougeL": number / 10}} for number in (0, 2, 4)]
    (tmp_path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "data.json").write_text(json.dumps({"tokens": "t", "steps": 8}))
    shown = console(TrialSwitch())
    shown.report_recorded(tmp_path)
    assert [(each["value"], each["progress"]) for each in reported] == [(0.2, 25.0), (0.4, 50.0)]
    assert shown.outcome("stopped", "asha").value == 0.4


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_run_without_a_finite_metric_is_done_and_has_no_value(value: float | None) -> None:
    found = done({"status": "done", "steps": 3, "eval": {"after": {"rougeL": value, "loss": 0.5}}}, "rougeL")
    assert (found.state, found.value, found.reason) == ("done", None, "it has no finite rougeL")
    assert found.metrics == {"loss": 0.5} | ({"rougeL": None})


def test_the_board_has_orders_to_one_and_to_all() -> None:
    board = Board()
    assert board.tell(1, {"step": 2}) is None
    assert board.order({1: "asha"}, None) == {1: {"step": 2}}
    assert (board.tell(1, {}), board.tell(2, {})) == ("asha", None)
    board.order({1: "asha"}, PAUSE)
    assert (board.tell(1, {}), board.tell(2, {})) == (PAUSE, PAUSE)
