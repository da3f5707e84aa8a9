"""Early stops become requests: no decision of a scheduler ever reaches Ray Tune, which would kill the trial."""

from __future__ import annotations

import math
from typing import Any

import pytest

from medray.tune.scheduler import FINAL, NUMBER, PROGRESS, VALUE, StopByRequest, scheduler


class TuneTrial:
    """A trial of Ray Tune with the one attribute that schedulers read."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"t{number}"


class Trials:
    """A scheduler, and what it asked for."""

    def __init__(self, name: Any, *, lower: bool = True) -> None:
        self.asked: dict[int, str] = {}
        self.scheduler: StopByRequest = scheduler(name, lower=lower, ask=self.asked.__setitem__)
        self._added: dict[int, Any] = {}

    def report(self, number: int, progress: float, value: float, **more: Any) -> None:
        if number not in self._added:
            self._added[number] = TuneTrial(number)
            self.scheduler.on_trial_add(None, self._added[number])
        result = {NUMBER: number, PROGRESS: progress, VALUE: value} | more
        assert self.scheduler.on_trial_result(None, self._added[number], result) == "CONTINUE"


def test_asha_asks_the_worse_two_thirds_to_stop() -> None:
    trials = Trials("asha")
    for number in range(1, 10):
        trials.report(number, 10.0, 1.0 / number)  # each better than the one before
    assert trials.asked == {}
    trials.report(10, 10.0, 0.9)
    assert list(trials.asked) == [10]
    assert "10 %" in trials.asked[10]
    trials.report(10, 20.0, 0.9)
    trials.report(1, 30.0, 0.1)
    trials.report(2, 30.0, 0.9)
    trials.report(1, 90.0, 9.9)  # there is no rung so late
    assert list(trials.asked) == [10, 2]


def test_asha_takes_a_higher_metric_for_better_where_it_is() -> None:
    trials = Trials("asha", lower=False)
    for number in range(1, 10):
        trials.report(number, 10.0, float(number))
    trials.report(10, 10.0, 0.5)
    assert list(trials.asked) == [10]


def test_a_trial_whose_last_step_is_computed_is_never_asked() -> None:
    for name in ("asha", "median"):
        trials = Trials(name)
        for number in range(1, 8):
            for progress in (10.0, 30.0):
                trials.report(number, progress, 0.1)
            trials.scheduler.recall(number + 100, [(50.0, 0.1)])
        trials.report(9, 100.0, 5.0)
        trials.report(9, 100.0, math.nan, **{FINAL: True})
        assert trials.asked == {}


def test_equal_values_stop_nobody() -> None:
    for name in ("asha", "median"):
        trials = Trials(name)
        for number in range(1, 8):
            for progress in (10.0, 30.0, 50.0):
                trials.report(number, progress, 0.5)
        assert trials.asked == {}


def test_the_median_stops_what_is_worse_than_the_others() -> None:
    trials = Trials("median")
    for number in (1, 2, 3):
        for progress in (10.0, 20.0, 30.0):
            trials.report(number, progress, 0.1 * number)
    trials.report(4, 10.0, 0.9)
    assert list(trials.asked) == [4]


@pytest.mark.parametrize(("name", "stopped"), [("none", False), ("asha", True), ("median", True)])
def test_a_metric_that_is_not_finite_stops_where_anything_does(name: str, stopped: bool) -> None:
    trials = Trials(name)
    trials.report(1, 10.0, math.nan)
    assert bool(trials.asked) == stopped
    trials.report(2, 10.0, 0.5)
    trials.report(3, 20.0, 0.4)
    assert set(trials.asked) <= {1}


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_search_that_continues_remembers_the_trials_before(name: str) -> None:
    trials = Trials(name)
    for number in range(1, 8):
        trials.scheduler.recall(number, [(10.0, 0.1), (30.0, 0.1), (100.0, 0.1)])
    trials.report(8, 10.0, 0.9)
    assert list(trials.asked) == [8]
