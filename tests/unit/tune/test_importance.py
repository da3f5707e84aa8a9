"""The importance of keys, on metrics that are known functions of them."""

from __future__ import annotations

import importlib.util
import math

import pytest

from medray.config.tune import TuneConfig
from medray.tune import importance
from medray.tune.importance import importances
from medray.tune.points import random_points

SPACE = TuneConfig.model_validate(
    {
        "space": {
            "train.optimizer.lr": {"loguniform": [1e-6, 1e-2]},
            "peft.dropout": {"uniform": [0.0, 0.5]},
            "peft.type": {"choice": ["lora", "dora", "ia3"]},
        }
    }
).space


def metric(point: dict[str, float], of: str) -> float:
    if of == "peft.type":
        return {"lora": 0.1, "dora": 0.9, "ia3": 0.5}[str(point["peft.type"])] + 0.01 * point["peft.dropout"]
    return math.log(point["train.optimizer.lr"]) + 0.1 * point["peft.dropout"]


@pytest.mark.parametrize("optuna", [True, False])
@pytest.mark.parametrize("key", ["train.optimizer.lr", "peft.type"])
def test_the_key_that_decides_the_metric_comes_first(
    optuna: bool, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not optuna:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = [(point, metric(point, key)) for point in random_points(SPACE, 40, seed=2)]
    ranking, by = importances(SPACE, found)
    assert ranking[0][0] == key
    assert ranking[0][1] > 0.8
    assert all(value < 0.5 for _, value in ranking[1:])
    assert "40 configurations" in by
    assert ("fANOVA" in by) == optuna


def test_a_metric_that_never_changes_depends_on_nothing() -> None:
    points = random_points(SPACE, 5, seed=2)
    ranking, by = importances(SPACE, [(point, 1.0) for point in points])
    assert [value for _, value in ranking] == [0.0] * 3
    assert "hint" in by
    assert importances(SPACE, [(point, 1.0) for point in points[:3]]) == ([], "")


def test_ranks_share_the_mean_of_equal_numbers() -> None:
    assert importance._ranks([10, 30, 10, 20]).tolist() == [1.5, 4.0, 1.5, 3.0]
