"""The exports of `medray.train`, and its checks of a config from Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from medray import train
from medray.config import Config
from medray.errors import InputError


def made(folder: Path) -> Config:
    """A sound config of a run that has not begun."""
    tiny.write_jsonl(folder / "rows.jsonl", tiny.rows(8))
    return Config.model_validate(
        {
            "run": {"storage": str(folder / "runs")},
            "model": {"name": None, "init": "random", "preset": "llama-tiny"},
            "data": {"train": [str(folder / "rows.jsonl")], "tokenizer": "train", "vocab_size": 400},
        }
    )


def test_what_the_room_exports() -> None:
    assert train.__all__ == ["RunResult", "check", "run"]
    assert all(callable(getattr(train, name)) for name in train.__all__)
    assert set(train.__all__) <= set(dir(train))
    with pytest.raises(AttributeError, match="no attribute 'driver_of'"):
        _ = train.driver_of


def test_a_sound_config_passes_every_check(tmp_path: Path) -> None:
    train.check(made(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "key", "left_open"),
    [
        ({"train.offload": "cpu", "train.zero_stage": 0}, "train.offload", None),
        ({"cluster.workers": 9, "train.global_batch_size": 9}, "cluster.workers", "elsewhere"),
        (
            {"train.micro_batch_size": 2, "train.gradient_accumulation_steps": 1},
            "train.global_batch_size",
            None,
        ),
        ({"data.train": ["/nowhere.jsonl"]}, "data.train", "data"),
        ({"peft.type": "lora", "peft.targets": ["nowhere"]}, "peft.targets", "model"),
        ({"train.deepspeed": {"zero_optimizaton": {}}}, "train.deepspeed.zero_optimizaton", "model"),
    ],
)
def test_each_part_is_checked_and_can_be_left_open(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    key: str,
    left_open: str | None,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = made(tmp_path).override(changes)
    with pytest.raises(InputError) as caught:
        train.check(config)
    assert caught.value.key == key
    if left_open is not None:
        train.check(
            config,
            elsewhere=left_open == "elsewhere",
            data=left_open != "data",
            model=left_open != "model",
        )
