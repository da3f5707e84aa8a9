"""One part of a prediction job: order, references, rationales and what is written. No Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from medray.data.index.sources import FileSource
from medray.errors import InputError
from medray.evaluate.asking import AskedModel, Prompter
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.prediction.engines import Transformers, check_engine
from medray.evaluate.prediction.job import PredictJob, predict_part
from medray.evaluate.prediction.part_files import Counts, read_part
from medray.evaluate.prediction.rows import FileRows, index_range, parts_of


class Echo:
    """An engine that answers with the task and the number of tokens of the prompt."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter
        self.asked: list[tuple[str, list[np.ndarray]]] = []

    def answers(
        self,
        ids: Sequence[np.ndarray],
        decoding: Decoding,
        *,
        rows: Sequence[str],
        task: str,
        log_probability: bool,
    ) -> list[Answer]:
        self.asked.append((task, list(ids)))
        return [
            Answer(
                text=f"{task} {row} {len(prompt)}",
                tokens=3,
                finish="length" if len(prompt) > 40 else "stop",
                log_probability=-1.25 if log_probability else None,
            )
            for prompt, row in zip(ids, rows, strict=True)
        ]


def job(
    folder: Path, rows: list[dict[str, Any]], **changes: Any
) -> tuple[PredictJob, Echo, Counts, list[Any]]:
    """Predict `rows` as one part, and return what was written."""
    tokens = tiny.token_set(folder, tiny.rows(3))
    spec = replace(tokens.spec, appends_keys=changes.pop("appends_keys", False))
    asked = AskedModel(
        weights="", tokenizer=tokens.tokenizer, spec=spec, prompted=True, decoding=Decoding(), tuned=True
    )
    source = FileSource(path=str(tiny.write_jsonl(folder / "new.jsonl", rows)), format="jsonl")
    made = PredictJob(
        asked=asked,
        rows=FileRows(sources=(source,)),
        out=str(folder / "out"),
        task=changes.pop("task", "label"),
        decoding=Decoding(),
        batch_size=4,
        workers=1,
        cpus=1,
        gpus=0,
        threads=1,
        **changes,
    )
    (folder / "out" / "parts").mkdir(parents=True)
    [part] = parts_of([[index_range(source, 0, None)]], 512)
    engine = Echo(Prompter(asked))
    counts = predict_part(engine, made, 0, part)
    found = read_part(folder / "out", 0, part.rows)
    assert found is not None
    assert found[1] == counts
    return made, engine, counts, [json.loads(line) for line in found[0].splitlines()]


def test_a_part_has_one_line_per_row_with_its_reference_and_no_prompt(tmp_path: Path) -> None:
    rows = tiny.rows(9)
    del rows[4]["label"]
    _, _, counts, lines = job(tmp_path, rows)
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert all(line["prediction"].startswith(f"label {line['id']} ") for line in lines)
    assert [line.get("reference") for line in lines] == [row.get("label") for row in rows]
    assert set(lines[4]) == {"id", "prediction", "tokens", "finish"}
    assert counts.rows == 9
    assert counts.tokens == 27
    assert counts.unfinished == sum(line["finish"] == "length" for line in lines)


def test_prompts_and_log_probabilities_are_written_on_request(tmp_path: Path) -> None:
    rows = tiny.rows(2)
    _, _, _, lines = job(tmp_path, rows, log_probability=True, show_prompt=True)
    assert [line["log_probability"] for line in lines] == [-1.25, -1.25]
    assert all(row["input"].split()[0] in line["prompt"] for row, line in zip(rows, lines, strict=True))


def test_the_rationale_is_the_task_or_is_added_to_the_label(tmp_path: Path) -> None:
    rows = tiny.rows(6)
    _, _, _, lines = job(tmp_path / "task", rows, task="rationale")
    assert all(line["prediction"].startswith("rationale row-") for line in lines)
    assert [line.get("reference") for line in lines] == [row["rationale"] or None for row in rows]
    _, engine, _, lines = job(tmp_path / "added", rows, rationale=True)
    assert [task for task, _ in engine.asked] == ["rationale", "label"]
    assert all(line["rationale"].startswith("rationale row-") for line in lines)
    assert all(line["prediction"].startswith("label row-") for line in lines)


def test_a_model_that_reads_key_words_writes_them_first_where_a_row_has_none(tmp_path: Path) -> None:
    rows = tiny.rows(5)
    _, engine, _, lines = job(tmp_path, rows, appends_keys=True)
    assert ["rationale" in line for line in lines] == [not row["rationale"] for row in rows]
    asked = [engine.prompter.text(ids) for ids in engine.asked[-1][1]]
    assert "rationale row-4" in asked[4], "the label is asked with the key words that were written"
    assert rows[0]["rationale"].split()[0] in asked[0]


def test_batches_are_sorted_by_length_and_answers_return_in_order() -> None:
    batches: list[list[int]] = []

    class Spy:
        def answers(self, ids: Sequence[np.ndarray], decoding: Decoding, **options: Any) -> list[Answer]:
            batches.append([len(prompt) for prompt in ids])
            return [Answer(text=row, tokens=1, finish="stop") for row in options["rows"]]

    engine = Transformers.__new__(Transformers)
    engine._answerer, engine._batch_size = Spy(), 2  # type: ignore[assignment]
    ids = [np.zeros(size, np.int32) for size in (3, 9, 1, 7, 5)]
    found = engine.answers(ids, Decoding(), rows=list("abcde"), task="label", log_probability=False)
    assert [answer.text for answer in found] == list("abcde")
    assert batches == [[9, 7], [5, 3], [1]]


def test_engines_that_are_absent_are_refused_with_what_to_install(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(3))
    asked = AskedModel(
        weights="", tokenizer="", spec=tokens.spec, prompted=True, decoding=Decoding(), tuned=True
    )
    check_engine("transformers", asked, Decoding())
    with pytest.raises(InputError, match="not installed"):
        check_engine("vllm", asked, Decoding())
    for name in ("endpoint", "nonsense"):
        with pytest.raises(InputError, match="--engine"):
            check_engine(name, asked, Decoding())
