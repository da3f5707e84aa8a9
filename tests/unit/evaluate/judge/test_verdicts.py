"""Tests of verdicts, items, rules and figures, without files of a review."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from medray.config.judge import JudgeColumnsConfig
from medray.errors import InputError
from medray.evaluate.judge.items import Item, read_items, same
from medray.evaluate.judge.rows import Row, figures, kappa
from medray.evaluate.judge.rules import rules
from medray.evaluate.judge.verdicts import WORDS, messages, parse


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"verdict": "correct", "reason": "ok"}', "correct"),
        ('Sure!\n```json\n{"verdict": "Partially Correct", "reason": ""}\n```', "partially_correct"),
        ('<think>{"verdict": "incorrect"}</think>{"verdict": "correct"}', "correct"),
        ('{"a": 1} {"verdict": "incorrect", "reason": {}}', "incorrect"),
        ("Incorrect.", "incorrect"),
        ("**Verdict:** partially correct", "partially_correct"),
        ('{"verdict": "correct"} or {"verdict": "incorrect"}', None),
        ("The answer is not correct", None),
        ('{"verdict": "maybe"}', None),
        ('{"verdict": "correct"', None),
        ("", None),
        ("{" * 50_000, None),
    ],
)
def test_a_verdict_is_read_or_not(reply: str, verdict: str | None) -> None:
    found = parse(reply)
    assert (found.verdict if found else None) == verdict


def test_a_second_try_shows_the_unreadable_reply() -> None:
    item = Item(id="1", input="task text", answer="answer text", gold="gold text")
    first = messages(item, None, show_gold=False)
    assert [one.role for one in first] == ["system", "user"]
    assert "task text" in first[1].content
    assert "gold text" not in first[1].content
    assert "gold text" in messages(item, "Look.", show_gold=True)[1].content
    again = messages(item, None, show_gold=False, before=["hm", "well"])
    assert [one.role for one in again] == ["system", "user", "assistant", "user"]
    assert again[2].content == "well"


@pytest.mark.parametrize("seed", range(20))
def test_kappa_equals_that_of_scikit_learn(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(2, 60)
    first = [draw.choice(WORDS) for _ in range(count)]
    second = [one if draw.random() < 0.6 else draw.choice(WORDS) for one in first]
    if len({*first, *second}) > 1:
        assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_of_one_word_is_unknown() -> None:
    assert kappa(["correct"] * 3, ["correct"] * 3) is None
    assert kappa([], []) is None
    assert kappa(["correct", "incorrect"], ["incorrect", "correct"]) == -1.0


def row(number: int, first: str | None, second: str | None, human: str | None = None, **item: Any) -> Row:
    one = Item(id=str(number), input="x", answer="y", **item)
    return Row(
        item=one,
        content=one.content,
        judges=("a", "b"),
        verdicts={"a": first, "b": second},
        reasons={"a": "", "b": ""},
        human_verdict=human,
    )


def test_figures_count_states_and_accuracy_by_path() -> None:
    rows = [
        row(1, "correct", "correct", expected="correct"),
        row(2, "correct", "correct", expected="incorrect"),
        row(3, "correct", "incorrect", "incorrect", expected="incorrect"),
        row(4, "correct", None),
        row(5, None, None),
        row(6, "partially_correct", "partially_correct", expected="incorrect", exact=False),
    ]
    pending = Row(
        item=rows[0].item, content="", judges=("a", "b"), verdicts={"a": "correct"}, reasons={"a": ""}
    )
    found = figures([*rows, pending])
    assert found["states"] == {"pending": 1, "agreed": 3, "disputed": 2, "resolved": 1}
    assert found["agreement_rate"] == 3 / 6
    assert found["decided_by_people"] == 1 / 4
    assert found["paths"]["judges"]["accuracy"] == 2 / 3
    assert found["paths"]["person"]["accuracy"] == 1.0
    assert found["judges"]["b"]["unreadable"] == 2
    assert found["unresolved"] == ["4", "5", "1"]
    assert found["kappa"] == pytest.approx(
        cohen_kappa_score(["c", "c", "c", "p"], ["c", "c", "i", "p"]), abs=1e-12
    )


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("Heart  Failure", "heart failure", True),
        ('["b", "A"]', ["a", "B"], True),
        (["a"], ["a", "b"], False),
        ("[not json", "[not json", True),
    ],
)
def test_an_answer_equals_gold(answer: Any, gold: Any, equal: bool) -> None:
    assert same(answer, gold) is equal


def items(folder: Path, *rows: Any, **columns: Any) -> list[Item]:
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return read_items(file, JudgeColumnsConfig(**columns))


def test_items_are_read_by_usual_and_by_given_names(tmp_path: Path) -> None:
    first, second = items(
        tmp_path,
        {"id": 1, "prompt": "p", "prediction": ["x"], "label": "x"},
        {"id": "b", "input": "p", "answer": "y", "gold_verdict": "Partially correct"},
    )
    assert (first.id, first.answer, first.gold, first.expected) == ("1", '["x"]', "x", "correct")
    assert (second.gold, second.expected, second.exact) == (None, "partially_correct", True)
    [own] = items(tmp_path, {"k": "a", "t": "task", "out": "o"}, id="k", input="t", answer="out")
    assert (own.id, own.input, own.answer) == ("a", "task", "o")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"id": "a", "input": "x"}], "line 1: has no field answer or answers or prediction"),
        ([{"input": "x", "answer": "y"}], "line 1: has no field id"),
        ([{"id": "a", "input": "x", "answer": "y"}] * 2, "line 2: repeats the id"),
        ([{"id": "a", "input": "x", "answer": "y", "gold_verdict": "no"}], "is no verdict"),
        ([5], "line 1: is not a JSON object"),
        ([], "contains no items"),
    ],
)
def test_a_wrong_item_names_its_line(tmp_path: Path, rows: list[Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        items(tmp_path, *rows)


@pytest.mark.parametrize(
    ("answer", "exact", "overlap"),
    [
        ('["A", "b"]', "correct", "correct"),
        ('["a"]', "incorrect", "partially_correct"),
        ("c", "incorrect", "incorrect"),
    ],
)
def test_rules_compare_with_gold(answer: str, exact: str, overlap: str) -> None:
    from medray.backends.protocol import Request

    item = Item(id="x#1", input="", answer=answer, gold='["a", "b"]')
    request = Request(key="x#1#1", messages=(), holds="records", max_tokens=1)
    for name, expected in (("exact", exact), ("overlap", overlap)):
        verdict = parse(rules([item])[name](request))
        assert verdict is not None
        assert verdict.verdict == expected
