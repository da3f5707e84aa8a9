"""Inputs and labels are composed of the columns that a row has, and a row that lacks one is left out with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from medray.config.columns import Column, ColumnsConfig, columns_in
from medray.data.records import BadRowError, Distill
from medray.data.row_text import composed
from medray.data.schemas import parse

ROW: dict[str, Any] = {
    "question": " Which drug? ",
    "opa": "Aspirin",
    "opb": "Heparin",
    "none": None,
    "gap": float("nan"),
    "contexts": ["First.", None, "Second.\r\nThird."],
    "nested": {"text": {"parts": ["a", "b"]}, "a.b": "whole", "choices": '{"A": "from JSON"}'},
    "dotted.name": {"inner": 7},
    "turns": [{"said": "x"}],
}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("question", "Which drug?"),
        ("contexts", "First.\nSecond.\nThird."),
        ("nested.text.parts", "a\nb"),
        ("nested.text.parts.1", "b"),
        ("nested.a.b", "whole"),
        ("nested.choices.A", "from JSON"),
        ("dotted.name.inner", "7"),
        ("turns.0.said", "x"),
        ("{question}\nA) {opa}\nB) { opb }", "Which drug?\nA) Aspirin\nB) Heparin"),
        ("{{{opa}}} {{}} {nested.text.parts}", "{Aspirin} {} a\nb"),
        (("contexts", "question"), "First.\nSecond.\nThird.\n\nWhich drug?"),
        (("none", "gap", "Note: {none}", "absent", "Q: {question}"), "Q: Which drug?"),
    ],
)
def test_columns_become_one_text(column: Column, text: str) -> None:
    assert composed(ROW, column) == text


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("none", "column 'none' is empty"),
        ("gap", "column 'gap' is empty"),
        ("absent", "no column 'absent'"),
        ("nested.text.parts.2", "no column 'nested.text.parts.2'"),
        ("question.0", "no column 'question.0'"),
        ("{question} {none}", "column 'none' is empty"),
        ("nested", "column 'nested' holds a dict, not text"),
        ("turns", "column 'turns' holds a dict, not text"),
        (("none", "gap"), "none of the 2 columns has a text"),
        (("question", "nested"), "column 'nested' holds a dict, not text"),
    ],
)
def test_row_without_the_text_is_left_out(column: Column, reason: str) -> None:
    with pytest.raises(BadRowError) as caught:
        composed(ROW, column)
    assert str(caught.value) == reason


def test_columns_of_a_template_are_known_without_a_row() -> None:
    assert list(columns_in(("a", "{b.0} and {c}", "{{d}} {e}"))) == ["a", "b.0", "c", "e"]


EXAM: dict[str, Any] = {
    "q": "Which?",
    "opa": "one",
    "opb": "two",
    "list": ["one", "two"],
    "object": {"A": "one", "B": "two"},
    "json": '["one", "two"]',
}


@pytest.mark.parametrize(
    ("rule", "value", "label"),
    [
        ({"label_names": ["no", "yes"]}, 1, "yes"),
        ({"label_names": ["no", "yes"]}, 1.0, "yes"),
        ({"label_names": ["no", "yes"]}, "0.0", "no"),
        ({"label_names": {"true": "ill", "false": "well"}}, False, "well"),
        ({"label_names": {"1": "A", "2": "B"}}, 2, "B"),
        ({"label_options": ["opa", "opb"]}, 1, "two"),
        ({"label_options": ["opa", "opb"]}, "b", "two"),
        ({"label_options": {"1": "A) {opa}", "2": "B) {opb}"}}, 1, "A) one"),
        ({"label_options": "list"}, 0, "one"),
        ({"label_options": "list"}, "B", "two"),
        ({"label_options": "json"}, "1", "two"),
        ({"label_options": "object"}, "A", "one"),
    ],
)
def test_label_is_the_name_or_the_option_of_its_value(
    rule: dict[str, Any], value: object, label: str
) -> None:
    columns = ColumnsConfig.model_validate({"input": "q", "label": "cop", **rule})
    record = parse(EXAM | {"cop": value}, columns, source="s", number=0)
    assert isinstance(record, Distill)
    assert record.label == label


@pytest.mark.parametrize(
    ("rule", "value", "reason"),
    [
        ({"label_names": ["no", "yes"]}, 2, "the value of column 'cop' is not in label_names"),
        ({"label_names": ["no", "yes"]}, None, "column 'cop' is empty"),
        ({"label_options": {"1": "opa"}}, 0, "the value of column 'cop' is not in label_options"),
        ({"label_options": ["opa", "opb"]}, -1, "a number from 0 to 1"),
        ({"label_options": "list"}, 2, "a number from 0 to 1"),
        ({"label_options": "list"}, "C", "nor the letter of an option"),
        ({"label_options": "object"}, "C", "is not a key of column 'object'"),
        ({"label_options": "opa"}, 0, "column 'opa' is not a list or object"),
        ({"label_options": "absent"}, 0, "no column 'absent'"),
    ],
)
def test_value_without_a_name_or_option_makes_a_bad_row(
    rule: dict[str, Any], value: object, reason: str
) -> None:
    columns = ColumnsConfig.model_validate({"input": "q", "label": "cop", **rule})
    with pytest.raises(BadRowError, match=reason):
        parse(EXAM | {"cop": value}, columns, source="s", number=0)


def test_rationale_may_be_composed_and_may_be_missing() -> None:
    columns = ColumnsConfig(input="q", label="opa", rationale=("Because {why}", "exp"))
    for more, rationale in (
        ({"why": "x", "exp": "y"}, "Because x\n\ny"),
        ({"exp": "y"}, "y"),
        ({}, None),
    ):
        record = parse(EXAM | more, columns, source="s", number=0)
        assert isinstance(record, Distill)
        assert record.rationale == rationale
    nested = ColumnsConfig(input="q", label="opa", rationale="object")
    record = parse(EXAM, nested, source="s", number=0)
    assert isinstance(record, Distill)
    assert record.rationale == {"A": "one", "B": "two"}
