"""The state of a search in its driver: which trial comes next, and how those so far have ended.

Ray Tune asks for trials in its own thread, while the driver's main thread shows them, so every method takes a lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from medray.config import Config
from medray.errors import InputError
from medray.tune.board import PAUSE
from medray.tune.checks import DEFAULT_TRIALS, known_points, tune_of
from medray.tune.points import Past, Point, tpe_point
from medray.tune.share import Share
from medray.tune.trials import Trial, TrialFiles, trial_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """All trials of one configuration. value: their mean, None unless every seed that has ended is done with one."""

    number: int
    values: Point
    trials: tuple[Trial, ...]

    @property
    def done(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.state == "done" and trial.value is not None)

    @property
    def value(self) -> float | None:
        return fmean(trial.value for trial in self.done if trial.value is not None) if self.done else None


def configurations(trials: Mapping[int, Trial]) -> list[Configuration]:
    """Return trials grouped by their configuration, in order."""
    groups: dict[int, list[Trial]] = {}
    for _, trial in sorted(trials.items()):
        groups.setdefault(trial.configuration, []).append(trial)
    return [
        Configuration(number=number, values=group[0].values, trials=tuple(group))
        for number, group in sorted(groups.items())
    ]


class SearchState:
    """The trials of a search by their numbers. ending: why no other trial begins, None while some may."""

    def __init__(self, config: Config, share: Share, files: TrialFiles) -> None:
        self.config, self.tune, self.share = config, tune_of(config), share
        self.trials = files.read()
        self.live: dict[int, float] = {}  # when each trial began in this start, by time.monotonic
        self.ending: str | None = None
        self.stop_orders: dict[int, str] = {}  # numbers and reasons of trials that are stopped early
        self._files, self._lock = files, threading.RLock()
        self._points = known_points(config)

    def next(self) -> Trial | None:
        """Begin the next trial and return it; None where there is none left, or the search is ending.

        A trial of an earlier start that has not ended comes first. One whose values do not fit together fails here.
        """
        with self._lock:
            while self.ending is None:
                trial = self._unfinished() or self._new()
                if trial is None:
                    return None
                try:
                    trial_config(self.config, self.share, trial)
                except InputError as error:
                    self._keep(trial.model_copy(update={"state": "failed", "reason": str(error)}))
                    continue
                self._keep(trial)
                self.live[trial.number] = time.monotonic()
                return trial
            return None

    def full(self) -> bool:
        """Return whether as many trials are alive as the cluster holds."""
        with self._lock:
            return len(self.live) >= self.share.concurrent

    def left(self) -> bool:
        """Return whether a trial has not ended or not begun."""
        with self._lock:
            return self._unfinished() is not None or bool(self.live) or self._next_point() is not None

    def stop(self, number: int, reason: str) -> None:
        """Ask for the early stop of a trial."""
        with self._lock:
            self.stop_orders[number] = reason

    def ended(self, number: int, outcome: Mapping[str, Any] | None) -> Trial:
        """Record the end of a trial, and return it. outcome: as `trial.Outcome`; None where its process was lost."""
        with self._lock:
            self.live.pop(number, None)
            trial = self.trials[number]
            if outcome is None:
                reason = "its process ended without a result; Ray's logs say why"
                changes: dict[str, Any] = {"state": "failed", "reason": reason}
            else:
                paused = outcome["state"] == PAUSE
                # A start that was paused before its first step knows less than the one before.
                changes = {
                    name: each for name, each in outcome.items() if (each if paused else each is not None)
                }
                changes |= {"state": "begun"} if paused else {}
                changes["seconds"] = trial.seconds + float(outcome.get("seconds") or 0.0)
            ended = trial.model_copy(update=changes)
            self._keep(ended)
            return ended

    def trial_seconds(self) -> float:
        """Return the seconds of all trials together: of all their starts that have ended, and of those that run."""
        with self._lock:
            now = time.monotonic()
            ended = sum(trial.seconds for trial in self.trials.values())
            return ended + sum(now - began for began in self.live.values())

    def update(self, number: int, **changes: Any) -> None:
        """Change fields of a trial, in its file too."""
        with self._lock:
            self._keep(self.trials[number].model_copy(update=changes))

    def running(self) -> list[int]:
        """Return the numbers of the trials that are alive."""
        with self._lock:
            return sorted(self.live)

    def snapshot(self) -> dict[int, Trial]:
        """Return all trials as they are now."""
        with self._lock:
            return dict(self.trials)

    def _keep(self, trial: Trial) -> None:
        self._files.write(trial)
        self.trials[trial.number] = trial

    def _unfinished(self) -> Trial | None:
        waiting = (
            trial
            for number, trial in sorted(self.trials.items())
            if trial.state == "begun" and number not in self.live
        )
        return next(waiting, None)

    def _new(self) -> Trial | None:
        point = self._next_point()
        if point is None:
            return None
        number = max(self.trials, default=0) + 1
        configuration, repeat = divmod(number - 1, self.tune.seeds)
        return Trial(
            number=number, configuration=configuration + 1, seed=self.config.run.seed + repeat, values=point
        )

    def _next_point(self) -> Point | None:
        """Return the values of the trial after the last one; None where that was the last of the search."""
        number = max(self.trials, default=0)
        if number % self.tune.seeds:
            return self.trials[number].values
        index = number // self.tune.seeds
        if self.tune.how != "tpe":
            return self._points[index] if index < len(self._points) else None
        if index >= (self.tune.trials or DEFAULT_TRIALS):
            return None
        past = [_past(each) for each in configurations(self.trials)]
        return tpe_point(self.tune.space, past, seed=self.config.run.seed, lower=self.tune.lower_is_better)


def _past(configuration: Configuration) -> Past:
    """Return what a searcher learns of a configuration."""
    states = {trial.state for trial in configuration.trials}
    point = configuration.values
    if configuration.done:
        return Past(point=point, state="done", value=configuration.value)
    if "begun" in states:
        return Past(point=point, state="running")
    stopped = [
        trial for trial in configuration.trials if trial.state == "stopped" and trial.value is not None
    ]
    if stopped:
        return Past(point=point, state="stopped", value=stopped[0].value, share=stopped[0].share)
    return Past(point=point, state="failed")
