"""Sources without a good row: told as that, whatever else the config asks for, with their rejects written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.config import Config
from medray.data.index.sources import FileSource
from medray.data.shards.pipeline import Pipeline
from medray.errors import InputError


@pytest.mark.parametrize(
    ("data", "good", "says"),
    [
        ({"split": {"validation": 0.2}}, 0, "the train split is empty: no usable row among 5"),
        ({"split": {"validation": 0.2}}, 1, "5 of 6 train rows are bad"),
        ({"split": {"validation": 0.2, "by": "row"}, "subsample": 0.5}, 1, "5 of 6 train rows are bad"),
        ({"duplicates": "drop", "subsample": 0.01}, 2, "5 of 7 train rows are bad"),
        ({}, 0, "the train split is empty: no usable row among 5"),
    ],
)
def test_a_failed_reading_is_told_as_that(tmp_path: Path, data: dict[str, Any], good: int, says: str) -> None:
    rows = [{"input": "q", "label": ""}] * 5 + [
        {"input": f"q{number}", "label": "a"} for number in range(good)
    ]
    source = FileSource(path=str(tiny.write_jsonl(tmp_path / "a.jsonl", rows)), format="jsonl")
    pipeline = object.__new__(Pipeline)  # its second half: the first has read the sources, in Ray tasks
    pipeline.config = Config.model_validate({"data": data})
    pipeline.folder, pipeline.sources = tmp_path, {"train": [source], "validation": []}
    with pytest.raises(InputError) as caught:
        pipeline._indexes({"train": tiny.parts([source], 4), "validation": []})
    rejects = tmp_path / "train" / "rejects.jsonl"
    assert says in caught.value.what
    assert "column 'label' is empty: 5" in caught.value.what
    assert str(rejects) in str(caught.value.fix)
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [1, 2, 3, 4, 5]
