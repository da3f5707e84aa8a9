"""One part of a prediction job: order, references, rationales and what is written. No Ray."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from medray.backends.protocol import Failure, FailureKind, Reply, Request
from medray.backends.usage import Usage
from medray.config.backends import BackendConfig
from medray.data.index.sources import FileSource
from medray.errors import InputError, RunFailedError
from medray.evaluate.asking import AskedModel, Prompter
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.prediction.engines import ServerEngine, Transformers, check_engine
from medray.evaluate.prediction.job import PredictJob, predict_part
from medray.evaluate.prediction.part_files import Counts, read_part
from medray.evaluate.prediction.rows import FileRows, Question, index_range, parts_of


class Echo:
    """An engine that answers with the task and the number of tokens of the prompt."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter
        self.asked: list[tuple[str, list[np.ndarray]]] = []

    def answers(
        self, questions: Sequence[Question], decoding: Decoding, *, task: str, log_probability: bool
    ) -> list[Answer]:
        self.asked.append((task, [question.ids for question in questions]))
        return [
            Answer(
                text=f"{task} {question.id} {len(question.ids)}",
                tokens=3,
                finish="length" if len(question.ids) > 40 else "stop",
                log_probability=-1.25 if log_probability else None,
            )
            for question in questions
        ]


def job(
    folder: Path, rows: list[dict[str, Any]], **changes: Any
) -> tuple[PredictJob, Echo, Counts, list[Any]]:
    """Predict `rows` as one part, and return what was written."""
    tokens = tiny.token_set(folder, tiny.rows(3))
    encoded = ("appends_keys", "key_column", "tasks")
    spec = replace(tokens.spec, **{name: changes.pop(name) for name in encoded if name in changes})
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


def test_a_model_that_cannot_write_its_key_words_names_the_command_that_does(tmp_path: Path) -> None:
    rows = [row | {"key_words": "fever"} for row in tiny.rows(3)]
    options: dict[str, Any] = {"appends_keys": True, "key_column": "key_words", "tasks": ("label",)}
    _, engine, _, _ = job(tmp_path / "all", rows, **options)
    assert all("fever" in engine.prompter.text(ids) for ids in engine.asked[-1][1])
    with pytest.raises(InputError, match="1 of 3 rows have no key words") as caught:
        job(tmp_path / "some", [*rows[:2], tiny.rows(3)[2]], **options)
    assert "medray data annotate" in str(caught.value.fix)


def test_batches_are_sorted_by_length_and_answers_return_in_order() -> None:
    batches: list[list[int]] = []

    class Spy:
        def answers(self, ids: Sequence[np.ndarray], decoding: Decoding, **options: Any) -> list[Answer]:
            batches.append([len(prompt) for prompt in ids])
            return [Answer(text=row, tokens=1, finish="stop") for row in options["rows"]]

    engine = Transformers.__new__(Transformers)
    engine._answerer, engine._batch_size = Spy(), 2  # type: ignore[assignment]
    asked = [
        Question(id=name, ids=np.zeros(size, np.int32), cut=None, reference=None)
        for name, size in zip("abcde", (3, 9, 1, 7, 5), strict=True)
    ]
    found = engine.answers(asked, Decoding(), task="label", log_probability=False)
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
    with pytest.raises(InputError, match="no such engine"):
        check_engine("nonsense", asked, Decoding())
    with pytest.raises(InputError, match="reads one"):
        check_engine("endpoint", asked, Decoding())
    far = BackendConfig(base_url="https://api.example.com/v1", model="m")
    with pytest.raises(InputError, match="text of records"):
        check_engine("endpoint", asked, Decoding(), far)
    near = BackendConfig(base_url="http://127.0.0.1:9/v1", model="m")
    check_engine("endpoint", asked, Decoding(), near)
    with pytest.raises(InputError, match="beams"):
        check_engine("endpoint", asked, Decoding(num_beams=2), near)


class Server:
    """A backend in the test's process, whose replies arrive in any order."""

    name = "m at 127.0.0.1"
    usage = Usage()

    def __init__(self, failure: FailureKind | None = None) -> None:
        self.failure, self.asked = failure, list[Request]()

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        self.asked = list(requests)
        for number, request in reversed(list(enumerate(self.asked))):
            if number == 1 and self.failure is not None:
                yield Failure(key=request.key, kind=self.failure, message="it failed")
            else:
                yield Reply(key=request.key, text=f" answer {number} ", finish_reason="stop", model="m")


def test_a_server_gets_the_messages_of_training_and_its_replies_keep_their_rows(tmp_path: Path) -> None:
    rows = tiny.rows(3)
    made, _, _, _ = job(tmp_path, rows)
    server = Server()
    engine = ServerEngine(made.asked, server)
    [part] = parts_of([[index_range(made.rows.sources[0], 0, None)]], 512)  # type: ignore[attr-defined]
    questions = made.rows.read(part, engine.prompter, "label")
    found = engine.answers(
        questions, Decoding(temperature=0.7, top_p=0.9, stop=("END",)), task="label", log_probability=False
    )
    assert [answer.text for answer in found] == ["answer 0", "answer 1", "answer 2"]
    assert [request.messages[-1].content for request in server.asked] == [
        f"predict:\n{row['input']}" for row in rows
    ]
    assert all(request.holds == "records" and request.top_p == 0.9 for request in server.asked)
    assert len({request.seed for request in server.asked}) == 3
    refusing = ServerEngine(made.asked, Server("refused")).answers(
        questions, Decoding(), task="label", log_probability=False
    )
    assert [answer.finish for answer in refusing] == ["stop", "refused", "stop"]
    with pytest.raises(RunFailedError, match="run the same command again"):
        ServerEngine(made.asked, Server("connection")).answers(
            questions, Decoding(), task="label", log_probability=False
        )
