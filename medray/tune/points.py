"""The configurations of a search: values by key, drawn as `tune.space` says.

All functions are pure: what comes next depends on the space, the seed and what was tried before. A search that was
killed therefore needs no state of its searcher.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medray.config.tune import Draw

Point = dict[str, Any]
_TRIES = 200  # draws without a new configuration, after which a space counts as exhausted
_STARTUP = 8  # random configurations before TPE begins to model


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A configuration that was tried.

    value: mean of the metric over the seeds that are done, or the last value of a stopped trial; None if there is none.
    share: how much of its run a stopped trial had computed, from 0 to 1; 1 in other states.
    """

    point: Point
    state: Literal["running", "done", "stopped", "failed"]
    value: float | None = None
    share: float = 1.0


def grid_points(space: Mapping[str, Draw]) -> list[Point]:
    """Return every combination of the listed values; the last key changes fastest."""
    names = list(space)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(draw.values for draw in space.values()))
    ]


def random_points(space: Mapping[str, Draw], count: int, seed: int) -> list[Point]:
    """Return `count` different draws, or fewer if the space has no more. A higher count only adds draws at the end."""
    draws, misses = random.Random(f"medray tune {seed}"), 0
    found: list[Point] = []
    seen: set[str] = set()
    while len(found) < count and misses < _TRIES:
        point = {name: _drawn(draw, draws) for name, draw in space.items()}
        if (known := identity(point)) in seen:
            misses += 1
            continue
        seen.add(known)
        found.append(point)
        misses = 0
    return found


def tpe_point(space: Mapping[str, Draw], past: Sequence[Past], *, seed: int, lower: bool) -> Point | None:
    """Return the next configuration by Optuna's TPE; None if no new one is left, because every combination was tried.

    past: what was tried, in order. Running configurations count as bad, so that those that run at the same time differ
    (Optuna's constant_liar).
    lower: whether a lower value is better.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A seed that depends on what is known: a search that continues must not draw its first configurations again.
    sampler = optuna.samplers.TPESampler(seed=seed + len(past), n_startup_trials=_STARTUP, constant_liar=True)
    study = optuna.create_study(direction="minimize" if lower else "maximize", sampler=sampler)
    distributions = optuna_distributions(space)
    for each in (one for one in past if fits(space, one.point)):
        states = {"running": TrialState.RUNNING, "done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
        known = each.value is not None and math.isfinite(each.value)
        state = (
            states.get(each.state, TrialState.FAIL) if known or each.state == "running" else TrialState.FAIL
        )
        study.add_trial(
            create_trial(
                state=state,
                params=internal_point(space, each.point),
                distributions=distributions,
                value=each.value if state == TrialState.COMPLETE else None,
                intermediate_values={round(100 * each.share): each.value}
                if state == TrialState.PRUNED and each.value is not None
                else None,
            )
        )
    seen = {identity(each.point) for each in past}
    for _ in range(_TRIES):
        asked = study.ask(fixed_distributions=distributions)
        point = {name: _external(space[name], asked.params[name]) for name in space}
        if identity(point) not in seen:
            return point
        study.tell(asked, state=TrialState.FAIL)  # the same seed gives the same numbers
    rest = random_points(space, len(past) + 1, seed)
    return next((point for point in rest if identity(point) not in seen), None)


def identity(point: Point) -> str:
    """Return a text that is equal for equal configurations."""
    return json.dumps(point, sort_keys=True)


def label(point: Point) -> str:
    """Return a configuration for people: `peft.rank 8, train.optimizer.lr 0.00031`."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in point.items())


def value_text(value: Any) -> str:
    """Return a value of a configuration for people, in at most 40 characters."""
    text = (
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"


def optuna_distributions(space: Mapping[str, Draw]) -> dict[str, Any]:
    """Return Optuna's distribution of each key. Lists are drawn by index, because their values may be anything."""
    return {name: _distribution(draw) for name, draw in space.items()}


def fits(space: Mapping[str, Draw], point: Point) -> bool:
    """Return whether the space contains a configuration. One that was read from a trial's file may be outside."""
    return point.keys() == space.keys() and all(
        _within(point[name], draw.bounds) if draw.bounds else point[name] in draw.values
        for name, draw in space.items()
    )


def _within(value: Any, bounds: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and bounds[0] <= value <= bounds[1]


def internal_point(space: Mapping[str, Draw], point: Point) -> dict[str, Any]:
    """Return a configuration with the values that Optuna stores: for a list, the index of the value."""
    return {
        name: point[name] if draw.bounds else draw.values.index(point[name]) for name, draw in space.items()
    }


def _drawn(draw: Draw, draws: random.Random) -> Any:
    if draw.randint:
        return draws.randint(*draw.randint)
    if draw.uniform:
        return draws.uniform(*draw.uniform)
    if draw.loguniform:
        low, high = draw.loguniform
        return min(max(math.exp(draws.uniform(math.log(low), math.log(high))), low), high)
    return draws.choice(draw.values)


def _distribution(draw: Draw) -> Any:
    from optuna import distributions

    if draw.randint:
        return distributions.IntDistribution(*draw.randint)
    if draw.bounds:
        return distributions.FloatDistribution(*draw.bounds, log=draw.kind == "loguniform")
    return distributions.CategoricalDistribution(range(len(draw.values)))  # values may be lists


def _external(draw: Draw, value: Any) -> Any:
    return value if draw.bounds else draw.values[value]
