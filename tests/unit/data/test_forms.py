"""Rows to records: what is taken as it is, what is mended, and what is left out with which reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medray.config.data import ColumnsConfig
from medray.data.records import BadRowError, Distill, parse

GOOD: dict[str, Any] = {"input": "text", "label": "note"}


def made(row: dict[str, Any], **columns: str | None) -> Distill:
    return parse(row, ColumnsConfig(**columns), source="file.csv", number=3)  # type: ignore[arg-type]


def reason(row: dict[str, Any], **columns: str | None) -> str:
    with pytest.raises(BadRowError) as caught:
        made(row, **columns)
    return str(caught.value)


def test_a_record_holds_all_columns_of_its_row() -> None:
    entities = [{"text": "fever", "assertion": "absent"}]
    row = GOOD | {"rationale": "why", "id": "7", "group": "p1", "lang": "en", "entities": entities}
    assert made(row) == Distill("7", "file.csv", "p1", "en", "text", "note", "why", tuple(entities))


def test_columns_go_by_the_names_of_the_config() -> None:
    row = {"dialogue": "d", "note": "n", "facts": "f", "key": "k", "patient": "p", "input": "x", "label": "y"}
    record = made(row, input="dialogue", label="note", rationale="facts", id="key", group="patient")
    assert (record.input, record.label, record.rationale, record.id, record.group) == (
        "d",
        "n",
        "f",
        "k",
        "p",
    )


def test_without_an_id_a_record_is_named_by_file_and_row_and_is_its_own_group() -> None:
    for row in (GOOD, GOOD | {"id": ""}, GOOD | {"id": None}):
        assert (made(row).id, made(row).group) == ("file.csv:3", "file.csv:3")
    assert made(GOOD | {"id": "a"}).group == "a"
    assert made(GOOD | {"id": 0}).id == "0"
    assert made(GOOD | {"id": "a", "group": "g"}, id=None, group=None).id == "file.csv:3"


def test_ends_are_stripped_and_line_ends_are_one_character() -> None:
    record = made({"input": " a\r\nb\n", "label": "\tc "})
    assert (record.input, record.label) == ("a\nb", "c")


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (1.5, "1.5"), (True, "True"), (0, "0")])
def test_numbers_are_text(value: object, text: str) -> None:
    assert made({"input": "x", "label": value}).label == text


@pytest.mark.parametrize("missing", [None, "", "  \r\n", float("nan")])
def test_a_missing_rationale_is_no_reason_to_leave_a_row_out(missing: object) -> None:
    assert not made(GOOD | {"rationale": missing}).rationale
    assert made(GOOD).rationale is None
    assert made(GOOD | {"rationale": "x"}, rationale=None).rationale is None


@pytest.mark.parametrize("column", ["input", "label"])
@pytest.mark.parametrize("missing", [None, "", " \r\n\t", float("nan")])
def test_a_row_without_input_or_label_is_left_out(column: str, missing: object) -> None:
    assert reason(GOOD | {column: missing}) == f"column {column!r} is empty"
    assert reason({name: GOOD[name] for name in GOOD if name != column}) == f"no column {column!r}"


@pytest.mark.parametrize("column", ["input", "label", "rationale", "id", "group"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["SECRET"], "holds a list, not text"),
        ({"SECRET": 1}, "holds a dict, not text"),
        ("SECRET\x00", "holds a NUL byte"),
        (json.loads(r'"SECRET \ud83e"'), "holds half of a surrogate pair"),
    ],
)
def test_a_value_that_is_not_text_leaves_the_row_out(column: str, value: object, problem: str) -> None:
    """Half an emoji is what a cut at a number of UTF-16 units leaves; no tokenizer and no Parquet file takes it."""
    assert reason(GOOD | {column: value}) == f"column {column!r} {problem}"


class TestEntities:
    def test_a_list_or_the_same_as_json_text(self) -> None:
        entities = [{"text": "fever", "type": "symptom"}, {"text": "rash", "assertion": "absent"}]
        wanted = ({"text": "fever", "assertion": "present"}, {"text": "rash", "assertion": "absent"})
        assert made(GOOD | {"entities": entities}).entities == wanted
        assert made(GOOD | {"entities": json.dumps(entities)}).entities == wanted

    @pytest.mark.parametrize("value", [[], "[]"])
    def test_a_note_without_entities_is_not_a_note_whose_entities_are_unknown(self, value: object) -> None:
        assert made(GOOD | {"entities": value}).entities == ()

    @pytest.mark.parametrize("value", [None, "", " ", "null"])
    def test_unknown(self, value: object) -> None:
        assert made(GOOD | {"entities": value}).entities is None
        assert made(GOOD).entities is None
        assert made(GOOD | {"entities": "oops"}, entities=None).entities is None

    def test_an_assertion_of_null_is_the_default(self) -> None:
        assert made(GOOD | {"entities": [{"text": "a", "assertion": None}]}).entities == (
            {"text": "a", "assertion": "present"},
        )

    @pytest.mark.parametrize("value", ["SECRET", "[" * 100_000, '[{"text": "SECRET"'])
    def test_text_that_is_no_json(self, value: str) -> None:
        assert reason(GOOD | {"entities": value}) == "column 'entities' is not a JSON list"

    @pytest.mark.parametrize(
        "value", [{"text": "SECRET"}, ["SECRET"], [{"SECRET": 1}], [{"text": None}], 3, "3"]
    )
    def test_what_is_no_list_of_entities(self, value: object) -> None:
        assert reason(GOOD | {"entities": value}) == "column 'entities' is not a list of objects with a text"
