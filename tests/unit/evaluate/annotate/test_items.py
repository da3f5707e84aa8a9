"""The items that records of every kind become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medray.config.columns import ColumnsConfig
from medray.config.data import ExtractionConfig
from medray.data.index.sources import FileSource
from medray.data.schemas import parse
from medray.evaluate.annotate.items import NO_LABEL, Item, ReadCounts, item_of, items

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Flu?"}]
DOCUMENT = {
    "passages": [{"text": "Aspirin helps."}],
    "entities": [{"id": "e", "type": "Chemical", "text": ["Aspirin"], "offsets": [[0, 7]]}],
}


def made(row: dict[str, Any]) -> Item | str:
    return item_of(parse(row, ColumnsConfig(), source="s", number=0), ExtractionConfig())


def test_each_kind_of_record_gives_an_input_a_label_and_a_row() -> None:
    plain = made({"id": "a", "group": "p1", "input": "x", "label": "y", "rationale": "old"})
    assert isinstance(plain, Item)
    assert plain.row == {"id": "a", "group": "p1", "input": "x", "label": "y"}
    chat = made({"messages": [*CHAT, {"role": "assistant", "content": "Yes."}]})
    assert isinstance(chat, Item)
    assert (chat.input, chat.label) == ("Be brief.\n\nFlu?", "Yes.")
    steps = made({"input_1": "find", "input_2": "sum up", "output": "note"})
    assert isinstance(steps, Item)
    assert (steps.input, steps.label) == ("find", "note")
    assert set(steps.row) == {"id", "input_1", "input_2", "output"}
    document = made(DOCUMENT)
    assert isinstance(document, Item)
    assert document.input.startswith("List every entity")
    assert document.input.endswith("Aspirin helps.")
    assert document.label == '["Aspirin"]'
    assert document.is_list


def test_other_records_are_left_out_and_counted(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    rows: list[dict[str, Any]] = [
        {"id": "a", "input": "one", "label": "y"},
        {"id": "a", "input": "two", "label": "y"},
        {"messages": turns},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"input": "no label"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = ReadCounts()
    source = FileSource(path=str(file), format="jsonl")
    found = items([source], ExtractionConfig(), counts)
    assert [item.key for item in found] == ["a", "a~2"]
    assert found[1].row["id"] == "a"
    assert counts.bad_rows == 1
    assert sum(counts.left_out.values()) == 2
    assert NO_LABEL not in counts.left_out
    assert len(items([source], ExtractionConfig(), ReadCounts(), first=1)) == 1
