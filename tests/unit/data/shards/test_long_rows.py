"""Rows of at least `data.drop_longer_than` tokens: what is counted, and that only training rows are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from medray.config import Config
from medray.config.checks.data import check_data
from medray.config.data import DataConfig
from medray.data.encode.encoder import Encoder
from medray.data.index.membership import SourceParts, join
from medray.data.index.row_index import MEASURED_AT_ONCE, RangeIndex, index_range
from medray.data.index.sources import FileSource
from medray.data.records import Distill, Origin, Record
from medray.data.shards.long_rows import LongRows, longest
from medray.data.shards.preparation import Preparation, long_rows
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError

ORIGIN = Origin("1", "s", "1", "")
RECORDS = [
    Distill(ORIGIN, "knee pain " * 40, "rash " * 50, "fever"),
    Distill(ORIGIN, "knee", "a", "since then " * 30),
    Distill(ORIGIN, "knee", "a", None),
]


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_the_longest_task_counts_before_it_is_cut(architecture: str, tmp_path: Path) -> None:
    place = str(tiny.tokenizer(tmp_path))
    spec = tiny.encode_spec(architecture)
    test = LongRows.of(60, place, spec)
    tokenizer = load_tokenizer(place)
    middle, end = ("", "") if architecture == "seq2seq" else ("\n\n", "\n")
    asked = {"label": f"predict:{end or ' '}", "rationale": f"explain:{end or ' '}"}

    def tokens(task: str, text: str, answer: str) -> int:
        """The row as whole texts, with an end token after each sequence."""
        parts = [asked[task] + text + middle, answer]
        parts = ["".join(parts)] if architecture == "causal" else parts
        return sum(len(tokenizer(part, add_special_tokens=False)["input_ids"]) + 1 for part in parts)

    wanted = [
        max(tokens("label", one.input, one.label), tokens("rationale", one.input, str(one.rationale or "")))
        for one in RECORDS[:2]
    ] + [tokens("label", RECORDS[2].input, RECORDS[2].label)]
    assert min(wanted[:2]) > 64 + 32 > 60 > wanted[2], "the limits of the spec would hide the first two"
    assert longest(Encoder(tokenizer, test.spec), RECORDS).tolist() == wanted
    assert test.among(RECORDS).tolist() == [True, True, False]
    exact = LongRows.of(min(wanted[:2]), place, spec)
    assert exact.among(RECORDS).tolist() == [True, True, False]
    assert LongRows.of(min(wanted[:2]) + 1, place, spec).among(RECORDS).sum() == 1


def test_training_rows_are_dropped_and_counted_and_validation_stays(tmp_path: Path) -> None:
    count = 2 * MEASURED_AT_ONCE + 5
    rows = [
        {"id": f"r{n}", "input": f"question {n}", "label": "long" if n % 3 else "a"} for n in range(count)
    ]
    rows[7] = {"input": "no label"}
    source = FileSource(path=str(tiny.write_jsonl(tmp_path / "a.jsonl", rows)), format="jsonl")
    seen: list[int] = []

    def too_long(records: Sequence[Record]) -> np.ndarray:
        seen.append(len(records))
        return np.array([isinstance(one, Distill) and one.label == "long" for one in records])

    part = index_range(source, 0, None, 100, long_rows=too_long)
    assert seen == [MEASURED_AT_ONCE, MEASURED_AT_ONCE, 4]
    part = RangeIndex.from_bytes(part.to_bytes())
    held = tiny.write_jsonl(tmp_path / "b.jsonl", [{"input": "other", "label": "long"}])
    held_part = index_range(FileSource(path=str(held), format="jsonl"), 0, None, 100)
    found = join([SourceParts("a", 0, [part])], [SourceParts("b", 0, [held_part])], DataConfig(), seed=0)
    long = sum(row.get("label") == "long" for row in rows)
    assert found["train"].dropped == {"too long": long}
    assert found["train"].rows == count - 1 - long
    assert found["validation"].rows == 1


def config(folder: Path, **data: Any) -> Config:
    file = folder / "a.jsonl"
    if not file.exists():
        tiny.write_jsonl(file, tiny.rows(3))
    tree = {
        "run": {"storage": str(folder / "runs")},
        "model": {"name": None, "init": "random", "preset": "llama-tiny"},
        "data": {"train": [str(file)], "tokenizer": str(folder / "tokenizer")} | data,
    }
    return Config.model_validate(tree)


def test_the_key_is_a_part_of_the_fingerprint_only_where_it_is_set(tmp_path: Path) -> None:
    tiny.tokenizer(tmp_path)
    plain, null, few, more = (
        Preparation(config(tmp_path, **data), "causal", None).folder
        for data in ({}, {"drop_longer_than": None}, {"drop_longer_than": 50}, {"drop_longer_than": 51})
    )
    assert plain == null
    assert len({plain, few, more}) == 3
    assert long_rows(config(tmp_path), "causal", None) is None


def test_a_tokenizer_that_is_trained_on_the_rows_cannot_count_them(tmp_path: Path) -> None:
    check_data(config(tmp_path, drop_longer_than=50), seq2seq=False)
    with pytest.raises(InputError, match="before the tokenizer is trained") as caught:
        check_data(config(tmp_path, drop_longer_than=50, tokenizer="train"), seq2seq=False)
    assert caught.value.key == "data.drop_longer_than"
