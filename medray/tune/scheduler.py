"""A scheduler of Ray Tune that never kills: its STOP becomes a request to the trial's run, which saves and ends.

With a plain ASHA of Ray 2.60, Tune removed a trial's resources before the export: no summary, no weights, worker groups
that nobody ended, and a driver that began another `fit` inside the dying trial.

Progress is in percent of a trial's own steps, so that trials of different lengths are compared at the same point of their
learning rate schedules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

VALUE, PROGRESS, FINAL, NUMBER = "value", "progress", "final", "number"  # keys of a result
WHOLE = 100.0
REDUCTION = 3  # ASHA keeps the best third at each of its rungs: at 10 and at 30 percent of a run
GRACE, LAST_RUNG = (
    10.0,
    80.0,
)  # percent; no rung at 90, where a trial that is stopped has cost as much as its export
MEDIAN_SAMPLES = 3


@dataclass(frozen=True)
class _PastTrial:
    """A trial of an earlier start, as a scheduler sees it."""

    trial_id: str


class StopByRequest(TrialScheduler):
    """A scheduler around `inner`. ask: called once per trial with its number and a reason, when `inner` says STOP."""

    def __init__(self, inner: TrialScheduler, ask: Callable[[int, str], None], name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._ask, self._name = inner, ask, name
        self._asked: set[int] = set()

    def recall(self, number: int, results: Iterable[tuple[float, float]]) -> None:
        """Show `inner` the (progress, value) pairs of a trial that an earlier start has ended."""
        trial: Any = _PastTrial(f"past-{number}")
        self._inner.on_trial_add(None, trial)  # type: ignore[arg-type]
        for progress, value in results:
            if math.isfinite(value) and progress < WHOLE:
                self._inner.on_trial_result(None, trial, {PROGRESS: progress, VALUE: value})  # type: ignore[arg-type]

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return CONTINUE always. A trial whose last step is computed is never asked to stop, because it exports."""
        if result.get(FINAL) or result.get(PROGRESS, WHOLE) >= WHOLE:
            return TrialScheduler.CONTINUE
        number, value = int(result[NUMBER]), float(result[VALUE])
        if not math.isfinite(value):
            if self._name != "none":
                self._request(number, f"its metric is {value}")
            return TrialScheduler.CONTINUE
        decision = self._inner.on_trial_result(controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._request(number, f"by tune.scheduler: {self._name}, at {result[PROGRESS]:.0f} % of the run")
        return TrialScheduler.CONTINUE

    def _request(self, number: int, reason: str) -> None:
        if number not in self._asked:
            self._asked.add(number)
            self._ask(number, reason)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell `inner` nothing: the last result is about the export, and all evaluations were told before."""

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self._inner.on_trial_add(controller, trial)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        """Tell `inner` nothing: the results of a failed trial remain results."""

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """Tell `inner` nothing, for the same reason."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self._inner.choose_trial_to_run(tune_controller)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune writes a copy of it that is never read."""
        return {}

    def debug_string(self) -> str:
        return self._inner.debug_string()


def scheduler(
    name: Literal["none", "asha", "median"], *, lower: bool, ask: Callable[[int, str], None]
) -> StopByRequest:
    """Return the scheduler of a search. lower: whether a lower value is better."""
    keys: dict[str, Any] = {"time_attr": PROGRESS, "metric": VALUE, "mode": "min" if lower else "max"}
    if name == "asha":
        keys |= {"max_t": LAST_RUNG, "grace_period": GRACE, "reduction_factor": REDUCTION}
        inner: TrialScheduler = AsyncHyperBandScheduler(**keys, stop_last_trials=False)
    elif name == "median":
        # Without the last key, it pauses trials while it knows too few of them.
        keys |= {"grace_period": GRACE, "min_samples_required": MEDIAN_SAMPLES, "min_time_slice": math.inf}
        inner = MedianStoppingRule(**keys)
    else:
        inner = FIFOScheduler()
    return StopByRequest(inner, ask, name)
