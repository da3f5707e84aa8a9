"""`tune:` of a config: what may be searched and how, said before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medray.config import Config, dump, read
from medray.errors import InputError

LR = {"train.optimizer.lr": {"loguniform": [1e-5, 1e-3]}}


def written(folder: Path, tune: Any, **more: Any) -> Path:
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump({"run": {"name": "s"}, **more, "tune": tune}))
    return file


def test_a_space_is_read_as_it_is_written_and_written_as_it_is_read(tmp_path: Path) -> None:
    space = LR | {
        "peft": {"rank": {"choice": [4, 8]}, "dropout": {"uniform": [0, 0.3]}},
        "model.name": {"choice": ["./a"]},
    }
    config = read(written(tmp_path, {"space": space, "trials": 3}), ["tune.space.peft.rank={choice: [2]}"])
    assert config.tune is not None
    assert config.tune.model_dump(exclude_unset=True) == {
        "trials": 3,
        "space": {
            "train.optimizer.lr": {"loguniform": (1e-5, 1e-3)},
            "peft.rank": {"choice": (2,)},
            "peft.dropout": {"uniform": (0.0, 0.3)},
            "model.name": {"choice": (str(tmp_path / "a"),)},
        },
    }
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert read(again) == config
    assert read(again, ["tune=null"]).tune is None


@pytest.mark.parametrize(
    ("tune", "key", "words"),
    [
        ({"space": {"peft.rnk": {"choice": [4]}}}, "tune.space.peft.rnk", "did you mean peft.rank"),
        ({"space": {"methode.alpha": {"choice": [0.5]}}}, "tune.space.methode.alpha", "did you mean method.alpha"),
        ({"space": {"run.seed": {"choice": [1, 2]}}}, "tune.space.run.seed", "cannot be searched"),
        ({"space": {"cluster.workers": {"choice": [1]}}}, "tune.space.cluster.workers", "cannot be searched"),
        ({"space": {"method.alpha": {"uniform": [0.1, 1.5]}}}, "tune.space.method.alpha", "at most 1"),
        ({"space": {"peft.rank": {"choice": [4, 0]}}}, "tune.space.peft.rank", "at least 1"),
        ({"space": {"peft.rank": {"uniform": [4, 8]}}}, "tune.space.peft.rank", "randint"),
        ({"space": {"peft.rank": 4}}, "tune.space", "choice: [4]"),
        ({"space": {"peft.rank": {"choice": []}}}, "tune.space.peft.rank", "empty"),
        ({"space": {"peft.rank": {"choice": [4, 4]}}}, "tune.space.peft.rank", "twice"),
        ({"space": {"peft.rank": {"choice": [4], "grid": [4]}}}, "tune.space.peft.rank", "exactly one"),
        ({"space": {"train.optimizer.lr": {"uniform": [1e-3, 1e-5]}}}, "tune.space.train.optimizer.lr", "below"),
        ({"space": {"train.optimizer.weight_decay": {"loguniform": [0, 1]}}}, "tune.space.train.optimizer.weight_decay", "above 0"),
        ({"space": {}}, "tune", "nothing to search"),
        ({"space": LR, "searcher": "grid"}, "tune", "needs a list"),
        ({"space": LR | {"peft.rank": {"grid": [4]}}}, "tune", "choice"),
        ({"space": LR, "trials": 0}, "tune.trials", "at least 1"),
        ({"space": LR, "trails": 2}, "tune.trails", "did you mean tune.trials"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_by_its_key(
    tmp_path: Path, tune: Any, key: str, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, tune))
    assert caught.value.key == key
    assert words in str(caught.value)
    assert caught.value.fix


def test_a_search_has_no_stages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stages"):
        read(written(tmp_path, {"space": LR}, stages=[{"name": "pre"}]))


def test_a_train_of_a_search_is_refused(tmp_path: Path) -> None:
    from medray.train.checks import refuse_search

    config = read(written(tmp_path, {"space": LR}))
    with pytest.raises(InputError, match="medray tune") as caught:
        refuse_search(config)
    assert caught.value.key == "tune"
    refuse_search(read(written(tmp_path, {"space": LR}), ["tune=null"]))


@pytest.mark.parametrize(
    ("tune", "how", "lower"),
    [
        ({"space": {"peft.rank": {"grid": [4, 8]}}}, "grid", True),
        ({"space": LR, "metric": "rougeL"}, "random", False),
        ({"space": LR, "metric": "rougeL", "mode": "min", "searcher": "tpe"}, "tpe", True),
    ],
)
def test_the_searcher_and_the_mode_follow_from_space_and_metric(tune: Any, how: str, lower: bool) -> None:
    found = Config.model_validate({"tune": tune}).tune
    assert found is not None
    assert (found.how, found.lower_is_better) == (how, lower)
