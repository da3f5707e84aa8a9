"""Rows to predict: with and without answers, in parts that can be read from their position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny

from medray.config import Config
from medray.data.index.sources import FileSource
from medray.evaluate.asking import AskedModel, Prompter
from medray.evaluate.decoding import Decoding
from medray.evaluate.prediction.inputs import default_part_rows, named_sources
from medray.evaluate.prediction.rows import FileRows, ShardRows, index_range, parts_of


def prompter(folder: Path) -> Prompter:
    folder.mkdir(exist_ok=True)
    tokens = tiny.token_set(folder, tiny.rows(3))
    asked = AskedModel(
        weights="",
        tokenizer=tokens.tokenizer,
        spec=tokens.spec,
        prompted=True,
        decoding=Decoding(),
        tuned=True,
    )
    return Prompter(asked)


def test_parts_hold_every_row_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = tiny.rows(150)
    rows[40] = {"id": "bad", "text": "x"}
    made: list[Any] = [{name: row[name] for name in row if name != "label"} for row in rows]
    file = tiny.write_jsonl(tmp_path / "new.jsonl", made)
    file.write_text(
        file.read_text() + "not json\n" + json.dumps(made[0] | {"id": "last", "label": "rash"}) + "\n"
    )
    source = FileSource(path=str(file), format="jsonl")
    ranges = [index_range(source, 0, None)]
    parts = parts_of([ranges], 48)
    assert [part.raw_rows for part in parts] == [64, 64, 24]
    assert ranges[0].reasons.total() == 2
    assert {(reject["line"]) for reject in ranges[0].rejects} == {41, 151}
    reader, ask = FileRows(sources=(source,)), prompter(tmp_path)
    questions = [question for part in parts for question in reader.read(part, ask, "label")]
    wanted = [row["id"] for row in rows if row["id"] != "bad"]
    assert [question.id for question in questions] == [*wanted, "last"]
    assert {question.reference for question in questions[:-1]} == {None}
    assert questions[-1].reference == "rash"
    assert [part.rows for part in parts] == [63, 64, 23]


def test_rows_without_an_id_are_named_by_their_line_in_every_part(tmp_path: Path) -> None:
    file = tiny.write_jsonl(tmp_path / "new.jsonl", [{"input": f"fever {n}"} for n in range(70)])
    source = FileSource(path=str(file), format="jsonl")
    parts = parts_of([[index_range(source, 0, None)]], 32)
    ask = prompter(tmp_path)
    found = [one.id for part in parts for one in FileRows(sources=(source,)).read(part, ask, "label")]
    assert found == [f"new.jsonl:{n + 1}" for n in range(70)]


def test_validation_shards_are_asked_with_their_own_prompts(tmp_path: Path) -> None:
    rows = tiny.rows(20)
    tokens = tiny.token_set(tmp_path, rows, truth=True)
    shards = ShardRows(tokens=tokens)
    parts = shards.parts(8)
    assert [part.rows for part in parts] == [8, 8, 4]
    ask = prompter(tmp_path / "other")
    found = [one for part in parts for one in shards.read(part, ask, "label")]
    assert [one.id for one in found] == [row["id"] for row in rows]
    assert [one.reference for one in found] == [row["label"] for row in rows]
    store = tokens.store()
    assert all(
        one.ids.tolist() == store.prompt(*place).tolist()
        for one, place in zip(found, tokens.rows(), strict=True)
    )


def test_files_are_read_with_the_columns_of_training(tmp_path: Path) -> None:
    file = tiny.write_jsonl(tmp_path / "new.jsonl", [{"question": "fever?"}])
    entry = {"path": "train.jsonl", "columns": {"input": "question", "label": "answer"}}
    config = Config.model_validate({"data": {"train": [entry]}})
    assert named_sources([str(file)], config)[0].columns.input == "question"
    stated = Config.model_validate({"data": {"train": [entry], "columns": {"input": "text"}}})
    assert named_sources([str(file)], stated)[0].columns.input == "text"


def test_small_inputs_are_divided_among_workers_and_large_ones_in_parts_of_512() -> None:
    assert default_part_rows(100, 1, 16) == 64
    assert default_part_rows(2000, 2, 16) == 125
    assert default_part_rows(100_000, 2, 16) == 512
    assert default_part_rows(100_000, 2, 256) == 1024
