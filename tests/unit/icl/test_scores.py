"""Scores of answers: what counts as an answer, and the numbers by hand."""

from __future__ import annotations

import pytest

from medray.evaluate.scoring.bootstrap import Bootstrap
from medray.icl.documents import Document
from medray.icl.scores import Scorer

ENTITIES = Scorer(answer="entities", ordered=True, bootstrap=Bootstrap(samples=200))
RELATIONS = Scorer(answer="relations", ordered=True, bootstrap=Bootstrap(samples=200))


def document(name: str, *items: tuple[str, ...]) -> Document:
    return Document(id=name, group="", text="", answer=items)


@pytest.mark.parametrize(
    ("said", "right", "answered", "unparsed"),
    [
        ('["Aspirin", "heparin"]', 2, 2, False),
        ('The drugs are ["aspirin"] and ["heparin"].', 1, 1, False),
        ("- aspirin\n- morphine", 1, 2, False),
        ("1. aspirin", 1, 1, False),
        ("aspirin is a drug", 0, 0, True),
        ("", 0, 0, False),
        ("[aspirin", 0, 0, True),
    ],
)
def test_the_first_list_counts_else_lines_else_nothing(
    said: str, right: int, answered: int, unparsed: bool
) -> None:
    gold = [document("a", ("aspirin",), ("heparin",))]
    [row] = ENTITIES.per_document(gold, {"a": said})
    assert (row["right"], row["answered"], row["gold"]) == (right, answered, 2)
    assert bool(row["unparsed"]) == unparsed


@pytest.mark.parametrize(
    ("said", "right", "answered"),
    [
        ('[["aspirin", "bleeding"]]', 1, 1),
        ('[["bleeding", "aspirin"]]', 0, 1),
        ("- aspirin | bleeding\n- lithium | tremor", 1, 2),
        ("1. aspirin, bleeding", 1, 1),
        ("Aspirin, which is old, causes bleeding", 0, 0),
        ("[]", 0, 0),
    ],
)
def test_pairs_are_read_from_lists_and_lines(said: str, right: int, answered: int) -> None:
    [row] = RELATIONS.per_document([document("a", ("aspirin", "bleeding"))], {"a": said})
    assert (row["right"], row["answered"]) == (right, answered)


def test_unordered_pairs_are_equal_both_ways() -> None:
    scorer = Scorer(answer="relations", ordered=False, bootstrap=Bootstrap(samples=100))
    [row] = scorer.per_document([document("a", ("x", "y"))], {"a": '[["Y", "x"]]'})
    assert (row["right"], row["exact"]) == (1, 1)


def test_micro_f1_by_hand_and_zero_denominators() -> None:
    gold = [document("a", ("x",), ("y",)), document("b"), document("c", ("z",))]
    found = ENTITIES.scores(gold, {"a": '["x"]', "b": '["q"]', "c": '["z"]'})
    assert found["documents"] == 3
    # 2 right of 3 answered and 3 gold
    assert found["ner_precision"]["value"] == pytest.approx(2 / 3)
    assert found["ner_f1"]["value"] == pytest.approx(2 / 3)
    assert found["ner_exact"]["value"] == pytest.approx(1 / 3)
    assert found["ner_f1"]["low"] <= found["ner_f1"]["value"] <= found["ner_f1"]["high"]
    empty = ENTITIES.scores([document("b"), document("d")], {"b": "[]", "d": "[]"})
    assert empty["ner_f1"]["value"] == 0


def test_a_comparison_uses_the_documents_that_both_answered() -> None:
    gold = [document(str(at), ("x",)) for at in range(10)]
    good = {str(at): '["x"]' for at in range(10)}
    bad = {str(at): '["y"]' for at in range(8)}
    found = ENTITIES.compare(gold, good, bad)
    assert (found["documents"], found["value"]) == (8, 1.0)
    assert found["p"] < 0.05
    assert ENTITIES.compare(gold, good, {})["value"] is None
