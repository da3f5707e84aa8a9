"""A row without an answer becomes the record that training would make of it, with a stand-in for the answer."""

from __future__ import annotations

from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data.prompt_rows import NO_ANSWER, prompt_record
from medray.data.records import BadRowError, Distill, Extraction, Instruction, Preference, TwoStep
from medray.data.schemas import parse

PLAIN = ColumnsConfig()
TURNS = [{"role": "user", "content": "Is it benign?"}]


@pytest.mark.parametrize(
    ("row", "answer", "columns", "kind"),
    [
        ({"input": "a"}, {"label": "b"}, PLAIN, Distill),
        ({"q": "a", "x": "b"}, {"y": "c"}, ColumnsConfig(input="{q}: {x}", label="y"), Distill),
        ({"instruction": "a", "input": "b"}, {"output": "c"}, PLAIN, Instruction),
        ({"prompt": "a"}, {"gold": "b"}, PLAIN, Instruction),
        ({"input_1": "a", "input_2": "b"}, {"output": "c"}, PLAIN, TwoStep),
        ({"passages": ["a"]}, {"entities": [{"id": "1", "text": "a"}]}, PLAIN, Extraction),
    ],
)
def test_prompt_is_that_of_training(
    row: dict[str, Any], answer: dict[str, Any], columns: ColumnsConfig, kind: type
) -> None:
    record, answered = prompt_record(row, columns, source="s", number=0)
    assert isinstance(record, kind)
    assert not answered
    whole = row | answer
    trained = parse(whole, columns, source="s", number=0)
    assert prompt_record(whole, columns, source="s", number=0) == (trained, True)
    for name in ("origin", "input", "first_input", "second_input", "passages"):
        assert getattr(record, name, None) == getattr(trained, name, None)
    if isinstance(record, Instruction):
        assert isinstance(trained, Instruction)
        assert record.messages[:-1] == trained.messages[:-1]
        assert record.messages[-1].content == NO_ANSWER
    elif not isinstance(record, Extraction):
        assert record.label == NO_ANSWER  # type: ignore[union-attr]


def test_conversation_may_end_with_a_question() -> None:
    for row in (
        {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "Is it benign?"}]},
        {"conversation": [{"role": "user", "value": "Is it benign?"}]},
        {"conversation": [{"human": "Is it benign?"}]},
        {"prompt": TURNS, "chosen": None, "rejected": None},
    ):
        record, answered = prompt_record(row, PLAIN, source="s", number=0)
        assert not answered
        turns = record.prompt if isinstance(record, Preference) else record.messages[:-1]  # type: ignore[union-attr]
        assert [turn.content for turn in turns] == ["Is it benign?"]


def test_label_without_a_name_is_no_reason_to_refuse_a_row() -> None:
    columns = ColumnsConfig(input="q", label="cop", label_options=("a", "b"))
    row = {"q": "Which?", "a": "this", "b": "that", "cop": -1}
    record, answered = prompt_record(row, columns, source="s", number=0)
    assert isinstance(record, Distill)
    assert (record.input, record.label, answered) == (
        "Which?",
        NO_ANSWER,
        False,
    )
    with pytest.raises(BadRowError, match="column 'q'"):
        prompt_record({"cop": 1}, columns, source="s", number=0)
