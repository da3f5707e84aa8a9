"""Rows become records: some unchanged, some repaired, and some are left out with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data.records import (
    BadRowError,
    Distill,
    Entity,
    Extraction,
    Instruction,
    Message,
    Origin,
    Preference,
    Relation,
    TwoStep,
)
from medray.data.schemas import form_of, parse

GOOD: dict[str, Any] = {"input": "text", "label": "note"}


def made(row: dict[str, Any], **columns: str | None) -> Any:
    return parse(row, ColumnsConfig(**columns), source="file.csv", number=3)  # type: ignore[arg-type]


def reason(row: dict[str, Any], **columns: str | None) -> str:
    with pytest.raises(BadRowError) as caught:
        made(row, **columns)
    return str(caught.value)


def test_a_record_holds_all_columns_of_its_row() -> None:
    entities = [{"text": "fever", "assertion": "absent"}]
    row = GOOD | {"rationale": "why", "id": "7", "group": "p1", "lang": "en", "entities": entities}
    assert made(row) == Distill(Origin("7", "file.csv", "p1", "en"), "text", "note", "why", tuple(entities))


def test_columns_go_by_the_names_of_the_config() -> None:
    row = {"dialogue": "d", "note": "n", "facts": "f", "key": "k", "patient": "p", "input": "x", "label": "y"}
    record = made(row, input="dialogue", label="note", rationale="facts", id="key", group="patient")
    assert (record.input, record.label, record.rationale) == ("d", "n", "f")
    assert (record.origin.id, record.origin.group) == ("k", "p")


def test_without_an_id_a_record_is_named_by_file_and_row() -> None:
    for row in (GOOD, GOOD | {"id": ""}, GOOD | {"id": None}):
        assert (made(row).origin.id, made(row).origin.group) == ("file.csv:4", "")
    assert made(GOOD | {"id": 0}).origin.id == "0"
    assert made(GOOD | {"id": "a", "group": "g"}, id=None, group=None).origin.id == "file.csv:4"


def test_output_is_another_name_of_the_label_unless_one_is_given() -> None:
    assert made({"input": "a", "output": "b"}).label == "b"
    assert reason({"input": "a", "output": "b"}, label="note") == "no column 'note'"


def test_a_rationale_may_be_a_list_or_a_text_a_key() -> None:
    assert made(GOOD | {"rationale": [" a", "", "b"]}).rationale == ("a", "b")
    assert made(GOOD | {"rationale": {"Age": "7", "Sex": None, "Smoking": ""}}).rationale == {
        "Age": "7",
        "Sex": None,
        "Smoking": None,
    }
    assert made(GOOD | {"rationale": []}).rationale is None
    assert made(GOOD | {"rationale": {"Age": None}}).rationale is None


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
        ([["SECRET"]], "holds a list, not text"),
        ("SECRET\x00", "contains a NUL byte"),
        (json.loads(r'"SECRET \ud83e"'), "contains an unpaired surrogate"),
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

    @pytest.mark.parametrize("value", [["SECRET"], [{"SECRET": 1}], [{"text": None}]])
    def test_what_is_no_list_of_entities(self, value: object) -> None:
        assert reason(GOOD | {"entities": value}) == "column 'entities' is not a list of objects with a text"

    @pytest.mark.parametrize("value", [{"text": "SECRET"}, 3, "3"])
    def test_what_is_no_list(self, value: object) -> None:
        assert reason(GOOD | {"entities": value}) == "column 'entities' is not a list"


def conversation(row: dict[str, Any]) -> list[tuple[str, str]]:
    record = made(row)
    assert isinstance(record, Instruction)
    return [(message.role, message.content) for message in record.messages]


class TestConversations:
    def test_messages_sharegpt_and_taiyi_are_the_same_thing(self) -> None:
        wanted = [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
        assert (
            conversation({"messages": [{"role": role, "content": text} for role, text in wanted]}) == wanted
        )
        names = {"user": "human", "assistant": "gpt"}
        turns = [{"from": names[role], "value": text} for role, text in wanted]
        assert conversation({"conversations": turns}) == wanted
        taiyi = [{"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}]
        assert conversation({"conversation": taiyi}) == wanted
        assert conversation({"conversation": json.dumps(taiyi)}) == wanted

    def test_a_system_message_stands_first(self) -> None:
        wanted = [("system", "s"), ("user", "q"), ("assistant", "a")]
        assert conversation({"prompt": "q", "gold": "a", "system": "s"}) == wanted
        assert conversation({"instruction": "s", "input": "q", "output": "a"}) == wanted
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        assert conversation({"system": "s", "conversations": turns}) == wanted
        assert conversation({"prompt": "q", "gold": "a", "system": None}) == wanted[1:]

    def test_an_instruction_without_an_input_is_the_question(self) -> None:
        assert conversation({"instruction": "q", "input": "", "output": "a"}) == [
            ("user", "q"),
            ("assistant", "a"),
        ]

    def test_neighbours_are_joined_and_an_open_question_is_left_out(self) -> None:
        turns = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", ""), ("user", "open")]
        row = {"messages": [{"role": role, "content": text} for role, text in turns]}
        assert conversation(row) == [("user", "a\n\nb"), ("assistant", "c")]

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            (
                {"messages": [{"role": "user", "content": "SECRET"}]},
                "no turn of 'messages' is an answer of the assistant",
            ),
            ({"messages": []}, "no turn of 'messages' is an answer of the assistant"),
            ({"messages": "SECRET"}, "column 'messages' is not a JSON list"),
            ({"messages": ["SECRET"]}, "turn 1 of 'messages' is not an object"),
            ({"messages": [{"role": "SECRET", "content": "x"}]}, "turn 1 of 'messages' has an unknown role"),
            (
                {"messages": [{"role": "assistant", "content": "SECRET"}]},
                "'messages' does not begin with a message of the user",
            ),
            ({"conversation": [{"human": "SECRET"}]}, "no column 'assistant'"),
            ({"prompt": "SECRET", "gold": " "}, "column 'gold' is empty"),
        ],
    )
    def test_what_is_no_conversation(self, row: dict[str, Any], says: str) -> None:
        assert reason(row) == says


class TestOtherForms:
    def test_two_steps(self) -> None:
        record = made({"input_1": "a", "input_2": "b", "output": "c", "rationale": "d"})
        assert record == TwoStep(Origin("file.csv:4", "file.csv", "", ""), "a", "b", "c", "d")

    def test_preference_as_texts_and_as_conversations(self) -> None:
        origin = Origin("file.csv:4", "file.csv", "", "")
        wanted = Preference(origin, (Message("user", "q"),), "a", "b")
        assert made({"prompt": "q", "chosen": "a", "rejected": "b"}) == wanted
        pairs = {
            name: [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]
            for name, text in (("chosen", "a"), ("rejected", "b"))
        }
        assert made(pairs) == wanted
        assert (
            reason({"prompt": "q", "chosen": "a", "rejected": "a"})
            == "the chosen and the rejected answer are the same"
        )

    def test_the_last_turn_of_both_conversations_is_the_answer(self) -> None:
        asked, other = {"role": "user", "content": "q"}, {"role": "user", "content": "another"}
        good, bad, empty = ({"role": "assistant", "content": text} for text in ("a", "b", ""))
        for column, sound in (("chosen", "rejected"), ("rejected", "chosen")):
            row = {sound: [asked, good], "prompt": [asked]}
            # The turn before an empty answer is a question, not an answer.
            assert reason(row | {column: [asked, empty]}) == "an answer of the pair is empty"
            for turns in ([], [asked], [asked, bad, other]):
                assert "does not end with an answer" in reason(row | {column: turns})
            assert "differ before their last answers" in reason(row | {column: [other, bad]})

    def test_bigbio(self) -> None:
        row = {
            "document_id": "d1",
            "passages": [{"type": "title", "text": ["Aspirin"], "offsets": [[0, 7]]}, {"text": ["for pain"]}],
            "entities": [
                {"id": "e1", "type": "Chemical", "text": ["Aspirin"], "offsets": [[0, 7]]},
                {"id": "e2", "type": "Disease", "text": ["pain"], "offsets": [[12, 16]]},
            ],
            "relations": [{"type": "treats", "arg1_id": "e1", "arg2_id": "e2"}],
        }
        assert made(row) == Extraction(
            Origin("d1", "file.csv", "d1", ""),
            ("Aspirin", "for pain"),
            (
                Entity("e1", "Chemical", ("Aspirin",), ((0, 7),)),
                Entity("e2", "Disease", ("pain",), ((12, 16),)),
            ),
            (Relation("treats", "e1", "e2"),),
        )
        lost = row | {"relations": [{"type": "treats", "arg1_id": "e1", "arg2_id": "e9"}]}
        assert reason(lost) == "a relation refers to an unknown entity"


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"input": "", "label": ""}, "columns"),
        ({"input": "", "output": ""}, "columns"),
        ({"instruction": "", "input": "", "output": ""}, "alpaca"),
        ({"messages": [], "prompt": "", "chosen": "", "rejected": ""}, "messages"),
        ({"prompt": "", "chosen": "", "rejected": ""}, "preference"),
        ({}, "columns"),
    ],
)
def test_the_columns_of_a_row_tell_its_form(row: dict[str, Any], form: str) -> None:
    assert form_of(row, ColumnsConfig()) == form
    assert form_of(row, ColumnsConfig(input="instruction")) == "columns", "what the user names goes before"


def test_turns_with_a_role_under_the_name_conversation() -> None:
    turns = [{"role": "user", "value": "q"}, {"role": "chatbot", "value": "a"}]
    record = made({"id": "1", "conversation": turns})
    assert record.messages == (Message("user", "q"), Message("assistant", "a"))
    assert reason({"conversation": [{"human": "q"}]}) == "no column 'assistant'"
