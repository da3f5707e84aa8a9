"""Stages without a cluster: what is refused before any of them trains, and when a merged model counts as complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray import stages
from medray.config import Config
from medray.errors import InputError


def config(folder: Path, *stage: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "run": {"storage": str(folder), "name": "three"},
            "model": {"name": None, "init": "random", "preset": "llama-tiny"},
            "data": {"dataset": "clinic", "tokenizer": "train"},
            "cluster": {"workers": 1},
            "stages": [{"name": "pre"}, *stage],
        }
    )


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ({"model": {"name": "elsewhere"}}, "stages.2.model.name"),
        ({"data": {"tokenizer": "model"}}, "stages.2.data.tokenizer"),
        ({"data": {"vocab_size": 500}}, "stages.2.data.vocab_size"),
        ({"peft": {"type": "lora", "rank": 0}}, "peft.rank"),
        ({"peft": {"type": "adalora"}}, "stages.2.train.zero_stage"),
    ],
)
def test_what_a_later_stage_cannot_have_is_refused(tmp_path: Path, stage: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        stages.check(config(tmp_path, {"name": "mid"} | stage), model=False)
    assert caught.value.key == key
    assert caught.value.fix


def test_only_the_last_stage_may_train_an_adapter_that_cannot_be_merged(tmp_path: Path) -> None:
    prompt = {"peft": {"type": "prompt"}}
    stages.check(config(tmp_path, {"name": "last"} | prompt), model=False)
    with pytest.raises(InputError, match="cannot be merged") as caught:
        stages.check(config(tmp_path, {"name": "mid"} | prompt, {"name": "last"}), model=False)
    assert caught.value.key == "stages.2.peft.type"


def test_a_stage_is_not_trained_again_under_a_later_one(tmp_path: Path) -> None:
    (tmp_path / "three.2-mid").mkdir()
    (tmp_path / "three.2-mid" / "config.yaml").touch()
    with pytest.raises(InputError, match="weights of stage 1") as caught:
        stages.run(config(tmp_path, {"name": "mid"}))
    assert caught.value.file == tmp_path / "three.2-mid"


def test_a_merged_model_is_complete_with_all_files_of_its_list(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"weights")
    assert not stages.is_whole(target), "no list: it was interrupted"
    (tmp_path / "merged.json").write_text(json.dumps({"model.safetensors": 7}))
    assert stages.is_whole(target)
    (target / "model.safetensors").write_bytes(b"weight")
    assert not stages.is_whole(target)
