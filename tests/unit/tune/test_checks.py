"""Refusals of a search before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medray import tune
from medray.config import Config
from medray.errors import InputError
from medray.tune.checks import known_points

LR = {"train.optimizer.lr": {"loguniform": [1e-5, 1e-3]}}


def config(folder: Path, search: dict[str, Any], **sections: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"storage": str(folder), "name": "s"},
            "model": {"preset": "llama-tiny", "init": "random"},
            "data": {"dataset": "clinic", "tokenizer": "train"},
            "tune": {"space": LR} | search,
        }
        | sections
    )


def test_a_search_that_can_work_is_accepted(tmp_path: Path) -> None:
    tune.check(config(tmp_path, {}), model=False)
    tune.check(config(tmp_path, {"searcher": "tpe", "metric": "rougeL"}), model=False)
    tune.check(config(tmp_path, {"scheduler": "asha"}, eval={"every_steps": 5}), model=False)


@pytest.mark.parametrize(
    ("search", "sections", "key", "words"),
    [
        ({"metric": "accuracy"}, {}, "tune.metric", "use one of loss"),
        ({"scheduler": "asha"}, {}, "tune.scheduler", "eval.every_steps"),
        ({}, {"cluster": {"workers": [1, 2]}}, "cluster.workers", "cluster.workers: 2"),
        ({}, {"tracking": {"register_as": "notes"}}, "tracking.register_as", "best.yaml"),
        ({}, {"run": {"name": "x" * 95}}, "run.name", "at most"),
        # A key without effect is refused, for all draws, as medray train refuses it.
        ({"space": {"peft.rank": {"randint": [2, 8]}}}, {}, "tune.space.peft.rank", "peft"),
        ({"space": {"peft.rank": {"grid": [4, 8]}}}, {}, "tune.space.peft.rank", "peft"),
        # The second point of a grid is named.
        ({"space": {"peft.type": {"grid": ["lora", "adalora"]}}}, {}, "train.zero_stage", "peft.type adalora"),
        ({"space": {"method.alpha": {"uniform": [0.1, 0.9]}}}, {"method": {"name": "distill"}}, "tune.metric", "loss_label"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(
    tmp_path: Path, search: dict[str, Any], sections: dict[str, Any], key: str, words: str
) -> None:
    sections = {
        name: ({"storage": str(tmp_path)} if name == "run" else {}) | each for name, each in sections.items()
    }
    with pytest.raises(InputError) as caught:
        tune.check(config(tmp_path, search, **sections), model=False)
    assert caught.value.key == key
    assert words in str(caught.value)
    assert caught.value.fix


def test_a_config_without_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to search"):
        tune.check(config(tmp_path, {}).override({"tune": None}), model=False)


def test_some_draws_may_not_fit(tmp_path: Path) -> None:
    search = {"space": {"peft.type": {"choice": ["lora", "adalora"]}} | LR, "trials": 6}
    drawn = config(tmp_path, search)
    assert {point["peft.type"] for point in known_points(drawn)} == {"lora", "adalora"}
    tune.check(drawn, model=False)
