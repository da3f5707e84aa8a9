"""Key words of a local run, through `medray data annotate`, as method.key_source: generated reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from exports import exported

from medray.cli.main import main
from medray.config import Config
from medray.data.records import Distill
from medray.data.schemas import parse
from medray.evaluate.asking import Answerer, Prompter, asked_export
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Let models answer without weights, as random weights write no end token; return the prompts that they were asked."""
    asked: list[list[int]] = []

    def answers(self: Answerer, ids: Sequence[np.ndarray], how: Decoding, **options: Any) -> list[Answer]:
        assert options["task"] == "rationale"
        asked.extend(each.tolist() for each in ids)
        return [Answer(text=f"keys {row}", tokens=2, finish="stop") for row in options["rows"]]

    monkeypatch.setattr(Answerer, "__init__", Prompter.__init__)
    monkeypatch.setattr(Answerer, "answers", answers)
    return asked


def test_a_run_writes_the_key_words_of_a_second_one(tmp_path: Path, prompts: list[list[int]]) -> None:
    rows = tiny.rows(5)
    export = exported(tmp_path, tiny.token_set(tmp_path, rows))
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "annotate.yaml").write_text(
        "data: {train: train.jsonl}\nteacher: {type: local, model: ./export}\nask: rationale\ncolumn: key_words\n"
    )
    assert (
        main(["data", "annotate", str(tmp_path / "annotate.yaml"), "--to", str(tmp_path / "out.jsonl")]) == 0
    )
    columns = Config().data.columns
    records = [parse(row, columns, source="s", number=number) for number, row in enumerate(rows)]
    own = Prompter(asked_export(export)).prompts(records, "rationale").ids
    assert prompts == [ids.tolist() for ids in own]  # the prompts of its training
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["key_words"] for row in written] == [f"keys row-{number}#1" for number in range(5)]
    assert [row.get("rationale", "") for row in written] == [row["rationale"] for row in rows]
    read = parse(written[0], columns, source="s", number=0)
    assert isinstance(read, Distill)
    assert read.key_words == "keys row-0#1"


def test_a_run_without_rationales_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(3), tasks=("label",))
    exported(tmp_path, tokens)
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.rows(3))
    (tmp_path / "annotate.yaml").write_text(
        "data: {train: train.jsonl}\nteacher: {type: local, model: ./export}\nask: rationale\nto: out.jsonl\n"
    )
    assert main(["data", "annotate", str(tmp_path / "annotate.yaml")]) == 2
    assert "was not trained to write rationales" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    assert main(["data", "annotate", str(tmp_path / "annotate.yaml"), "teacher.model=./run"]) == 2
    assert "neither a finished run nor a model" in capsys.readouterr().err
