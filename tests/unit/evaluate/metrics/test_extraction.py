"""Entities, relations and codes in answers: parsing, and counts by hand."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from metric_rows import measured
from sklearn.metrics import f1_score, precision_score, recall_score

from medray.evaluate.metrics.extraction import parse_entities, parse_relations
from medray.evaluate.metrics.measured import ClassCounts
from medray.evaluate.metrics.rows import MetricError, Settings

Found = frozenset[tuple[tuple[str, ...], str]]


def names(*texts: str) -> Found:
    return frozenset(((text,), "") for text in texts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('["Aspirin", "aspirin ", "chest\\n pain"]', names("aspirin", "chest pain")),
        ('The list is ["fever"]. Done ["cough"]', names("fever")),
        ('[1] see ["fever"]', names("fever")),
        ("[]", names()),
        ("None.", names()),
        ("", names()),
        ("- fever\n- cough", names("fever", "cough")),
        ("1. fever\n2. cough", names("fever", "cough")),
        ("fever\n\ncough", names("fever", "cough")),
        ("The patient has a fever", None),
        ('["fever", ', None),
        ("[[[[[[", None),
    ],
)
def test_parse_entities(text: str, found: object) -> None:
    assert parse_entities(text) == found


def test_typed_entities_and_relations() -> None:
    def found(*items: tuple[tuple[str, ...], str]) -> Found:
        return frozenset(items)

    assert parse_entities('[{"text": "Aspirin", "type": "drug"}]') == found((("aspirin",), "drug"))
    assert parse_relations('[["A", "b"], ["A", "B", "cid"]]') == found((("a", "b"), ""), (("a", "b"), "cid"))
    assert parse_relations('[{"arg1": "a", "arg2": "b", "type": "x"}]') == found((("a", "b"), "x"))
    assert parse_relations("a causes b") is None
    assert parse_relations("[]") == frozenset()
    deep = "[" * 100_000
    assert parse_entities(deep) is None


def test_ner_f1_by_hand() -> None:
    wanted = ['["fever", "cough"]', "[]", '["rash"]', '["pain"]']
    said = ['["Fever", "chills"]', "[]", "I do not know", '["pain"]']
    # hits 2, predicted 3, wanted 4
    got = measured("ner_f1", said, wanted)
    assert got.values() == pytest.approx(
        {"ner_precision": 2 / 3, "ner_recall": 0.5, "ner_f1": 4 / 7, "ner_exact": 0.5, "ner_unparsed": 0.25}
    )
    assert got.row_values()[1]["ner_f1"] is None  # nothing wanted, nothing found: no counts
    assert got.row_values()[1]["ner_exact"] == 1.0
    assert not got.classes


def test_ner_f1_equals_scikit_learn_over_indicators() -> None:
    draw = random.Random(2)
    kinds = [f"finding {n}" for n in range(12)]
    wanted = [[name for name in kinds if draw.random() < 0.3] for _ in range(40)]
    said = [[name for name in kinds if draw.random() < 0.3] for _ in range(40)]
    got = measured(
        "ner_f1", [json.dumps(each) for each in said], [json.dumps(each) for each in wanted]
    ).values()
    truth, guess = (np.array([[name in row for name in kinds] for row in side]) for side in (wanted, said))
    expected = [score(truth, guess, average="micro") for score in (precision_score, recall_score, f1_score)]
    assert [got[f"ner_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected)


def test_types_give_classes_and_may_be_compared() -> None:
    wanted = ['[{"text": "aspirin", "type": "drug"}, {"text": "ulcer", "type": "disease"}]']
    said = ['[{"text": "aspirin", "type": "disease"}, {"text": "ulcer", "type": "disease"}]']
    assert measured("ner_f1", said, wanted).values()["ner_f1"] == 1.0
    typed = measured("ner_f1", said, wanted, Settings(typed=True))
    assert typed.values()["ner_f1"] == 0.5
    assert typed.classes == {"disease": ClassCounts(1, 2, 1), "drug": ClassCounts(1, 0, 0)}
    untyped = measured("ner_f1", ['["aspirin", "water"]'], wanted)
    assert untyped.classes == {"disease": ClassCounts(1, 0, 0), "drug": ClassCounts(1, 1, 1)}


def test_re_f1_with_and_without_order() -> None:
    wanted, said = ['[["a", "b"], ["c", "d"]]'], ['[["b", "a"], ["c", "d"]]']
    assert measured("re_f1", said, wanted).values()["re_f1"] == 0.5
    assert measured("re_f1", said, wanted, Settings(ordered=False)).values()["re_f1"] == 1.0


def test_a_reference_that_is_no_list_is_refused_without_its_text() -> None:
    with pytest.raises(MetricError, match="1 of 2 have none") as error:
        measured("ner_f1", ["[]", "[]"], ["[]", "secret\nlines"])
    assert "secret" not in str(error.value)
    with pytest.raises(MetricError, match="re_f1 needs a JSON list"):
        measured("re_f1", ["[]"], ['["not a pair"]'])


def test_icd_f1_by_hand() -> None:
    got = measured("icd_f1", ["I10 and E11.65", "no code"], ["I10, E11.9", "j45"]).values()
    assert got["icd_precision"] == 0.5
    assert got["icd_recall"] == pytest.approx(1 / 3)
    assert got["icd_prefix_precision"] == 1.0
    assert got["icd_prefix_f1"] == pytest.approx(4 / 5)


def test_types_that_look_like_text_of_a_record_are_not_shown() -> None:
    wanted = ['[{"text": "a", "type": "drug"}, {"text": "b", "type": "Mr Miller born 1970 has it"}]']
    assert set(measured("ner_f1", wanted, wanted).classes) == {"drug", "(other)"}
