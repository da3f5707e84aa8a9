"""The package `medray.config` exports a fixed set of names, and a config can be copied with changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from run_configs import RUN_CONFIGS

import medray.config
from medray.config import Config, read
from medray.errors import InputError


def given(model: BaseModel) -> dict[str, Any]:
    """Return the keys that were given, for each section separately."""
    found: dict[str, Any] = {}
    for name in model.model_fields_set:
        value = getattr(model, name)
        found[name] = given(value) if isinstance(value, BaseModel) else None
    return found


def test_the_exports_of_the_package() -> None:
    assert sorted(medray.config.__all__) == ["Config", "Section", "dump", "read"]
    assert all(hasattr(medray.config, name) for name in medray.config.__all__)


@pytest.mark.parametrize("file", RUN_CONFIGS, ids=lambda file: file.stem)
def test_a_copy_without_changes_is_equal_and_gives_the_same_keys(file: Path) -> None:
    config = read(file)
    copy = config.override({})
    assert copy == config
    assert given(copy) == given(config)


def test_values_are_set_and_count_as_given() -> None:
    config = Config.model_validate({"train": {"epochs": 2}, "data": {"train": ["a.jsonl"]}})
    copy = config.override({"train.optimizer.lr": 1e-3, "method.name": "sft", "data.train": ["b.jsonl", "c"]})
    assert (copy.train.epochs, copy.train.optimizer.lr, copy.method.name) == (2, 1e-3, "sft")
    assert [entry.path for entry in copy.data.train] == ["b.jsonl", "c"]
    assert copy.gives("train.optimizer.lr")
    assert copy.gives("train.epochs")
    assert not copy.gives("train.max_steps")
    assert not copy.gives("eval")
    assert (config.train.optimizer.lr, config.gives("method")) == (Config().train.optimizer.lr, False)


def test_a_section_can_be_replaced_and_a_later_key_wins() -> None:
    config = Config().override(
        {"train.max_steps": 3, "train": {"max_steps": 5, "epochs": 4}, "train.epochs": 7}
    )
    assert (config.train.max_steps, config.train.epochs) == (5, 7)


@pytest.mark.parametrize(
    ("dotted", "value", "key", "fix"),
    [
        ("train.max_step", 3, "train.max_step", "did you mean train.max_steps?"),
        ("train.epochs", "many", "train.epochs", "train.epochs: "),
        ("train.max_steps", 0, "train.max_steps", "at least 1"),
        ("train.epochs.first", 1, "train.epochs.first", "the keys"),
        ("tracking.uri", "http://me:secret@host", "tracking.uri", "MLFLOW_TRACKING_USERNAME"),
        ("train.deepspeed", {"a": [[]]}, None, None),
    ],
)
def test_errors_name_the_key(dotted: str, value: object, key: str | None, fix: str | None) -> None:
    config = Config.model_validate({"train": {"epochs": 2}})
    if key is None or fix is None:
        assert config.override({dotted: value}).train.deepspeed == value
        return
    with pytest.raises(InputError) as caught:
        config.override({dotted: value})
    assert caught.value.key == key
    assert fix in str(caught.value.fix)
    assert caught.value.file is None
    assert "secret" not in str(caught.value)
