"""The importance of each key of a search: fANOVA where Optuna is installed, else the correlation of ranks.

fANOVA: Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014: the share
of the metric's variance that a key explains, in a random forest over all configurations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from medray.config.tune import Draw
from medray.tune.points import Point, fits, internal_point, optuna_distributions

FEWEST = 4  # complete configurations


def importances(
    space: Mapping[str, Draw], found: Sequence[tuple[Point, float]]
) -> tuple[list[tuple[str, float]], str]:
    """Return (key, importance) with the largest first, and a sentence that says how they were computed.

    found: values and mean metric of each complete configuration. With fewer than FEWEST, nothing is returned.
    """
    found = [each for each in found if fits(space, each[0])]
    count = len(found)
    if count < FEWEST:
        return [], ""
    if all(
        importlib.util.find_spec(name) for name in ("optuna", "sklearn")
    ):  # the second computes the forests
        shares = _fanova(space, found)
        by = f"Share of the metric's variance that a key explains (fANOVA), over {count} configurations."
    else:
        shares = {
            name: _correlation([point[name] for point, _ in found], [value for _, value in found])
            for name in space
        }
        by = f"Correlation of ranks between key and metric, without its sign, over {count} configurations."
    if count < 10 * len(space):
        by += " With so few, take it as a hint."
    return sorted(shares.items(), key=lambda each: -each[1]), by


def _fanova(space: Mapping[str, Draw], found: Sequence[tuple[Point, float]]) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    for point, value in found:
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=internal_point(space, point),
                distributions=optuna_distributions(space),
                value=value,
            )
        )
    if len({value for _, value in found}) == 1:
        return dict.fromkeys(space, 0.0)
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(shares.get(name, 0.0)) for name in space}


def _correlation(values: Sequence[Any], metric: Sequence[float]) -> float:
    """Return Spearman's correlation of numbers with the metric, without its sign; for other values, the root of the share
    of the ranks' variance between the values (the correlation ratio)."""
    import numpy as np

    ranks = _ranks(metric)
    if ranks.std() == 0:
        return 0.0
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        own = _ranks(values)
        return 0.0 if own.std() == 0 else abs(float(np.corrcoef(own, ranks)[0, 1]))
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(repr(value), []).append(float(rank))
    between = sum(len(group) * (np.mean(group) - ranks.mean()) ** 2 for group in groups.values())
    return float(np.sqrt(between / (len(ranks) * ranks.var())))


def _ranks(values: Sequence[float]) -> Any:
    """Return the ranks of numbers; equal ones share the mean of their ranks."""
    import numpy as np

    _, index, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[index]
