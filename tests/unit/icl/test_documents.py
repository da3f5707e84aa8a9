"""Documents of the ICL verbs: what an answer contains, which split is answered, and which sources are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from icl_corpus import write_corpus

from medray.config.icl import read_icl
from medray.errors import InputError
from medray.icl.documents import as_json, load


def test_files_give_documents_with_their_answers(tmp_path: Path) -> None:
    found = load(read_icl(write_corpus(tmp_path)))
    assert [document.id for document in found.train[:2]] == ["train-0", "train-1"]
    assert found.train[0].answer == (("aspirin",),)
    assert as_json(found.train[0].answer) == '["aspirin"]'
    assert found.statement == "List every Drug that the text names, as a JSON list of strings"
    assert len(found.test) == 3


def test_relations_are_pairs(tmp_path: Path) -> None:
    file = read_icl(write_corpus(tmp_path), ["data.extraction={answer: relations}"])
    assert as_json(load(file).train[0].answer) == '[["aspirin", "bleeding"]]'


def test_held_out_documents_are_not_for_training(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    found = load(read_icl(path, ["data.test=null", "data.held_out=0.25"]))
    again = load(read_icl(path, ["data.test=null", "data.held_out=0.25"]))
    assert [len(found.train), len(found.test)] == [6, 2]
    assert not {each.id for each in found.train} & {each.id for each in found.test}
    assert found.test == again.test


def test_an_equal_text_has_an_equal_hash(tmp_path: Path) -> None:
    first, second, *_ = load(read_icl(write_corpus(tmp_path))).train
    assert first.text_hash != second.text_hash


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"input": "a", "label": "b"}], "1 rows of the train split are not documents with entities"),
        ([{"passages": 3, "entities": []}], "the train split has no usable document among 1 rows"),
    ],
)
def test_sources_without_documents_are_refused(tmp_path: Path, rows: list[Any], said: str) -> None:
    path = write_corpus(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as error:
        load(read_icl(path))
    assert said in str(error.value)
    assert error.value.key == "data.train"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("icl.shoots=3", "icl.shoots"),
        ("icl.score_threshold=0.5", "icl"),
        ("icl.mmr_weight=0.3", "icl"),
        ("icl.shots=20", "icl"),
        ("icl.rerank=cross_encoder", "icl"),
        ("icl.search=bm25 icl.rerank=fusion", "icl"),
        ("data.held_out=0.5", "data"),
        ("run.storage=s3://bucket/x", "run.storage"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(InputError) as error:
        read_icl(write_corpus(tmp_path), override.split())
    assert error.value.key == key
    assert error.value.fix
