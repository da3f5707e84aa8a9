"""A run goes on with the data that its checkpoints saw, or says that they have changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medray.config import Config
from medray.errors import InputError
from medray.train.run_folder.changes import check_same_data, check_same_precision


def test_other_shards_are_refused_and_a_moved_folder_is_not(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"tokens": "/old/runs/tokens/abc/train"}))
    check_same_data(file, "/new/place/tokens/abc/train", Config())
    with pytest.raises(InputError, match="other data") as caught:
        check_same_data(file, "/old/runs/tokens/def/train", Config())
    assert caught.value.key == "run.name"
    assert caught.value.fix


def test_a_run_does_not_change_its_precision_with_the_device(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"tokens": "/runs/tokens/abc/train", "precision": "fp32"}))
    check_same_precision(file, "fp32", Config())
    with pytest.raises(InputError, match="trained in fp32 so far, and would continue in bf16") as caught:
        check_same_precision(file, "bf16", Config())
    assert caught.value.fix == "set train.precision: fp32"


@pytest.mark.parametrize("text", ["", "[]", '{"tokens', '{"tokens": null}'])
def test_a_damaged_note_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """It used to count as absent, and then nothing compared the data."""
    file = tmp_path / "data.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"data\.json: .*\n.*--overwrite"):
        check_same_data(file, "/runs/tokens/abc/train", Config())


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_run_of_before_knows_nothing_of_its_data(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "data.json"
    if text is not None:
        file.write_text(text)
    check_same_data(file, "/runs/tokens/abc/train", Config())
    check_same_precision(file, "fp32", Config())
