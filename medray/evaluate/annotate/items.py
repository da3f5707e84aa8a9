"""The records to annotate: the input that a teacher reads, the label that its answer must equal, and the row to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from medray.config.data import ExtractionConfig
from medray.data.encode.render import extraction_answer, extraction_prompt
from medray.data.index.row_index import records
from medray.data.index.sources import Source
from medray.data.records import BadRowError, Distill, Extraction, Instruction, Origin, Record, TwoStep

CONVERSATION = "conversations of several questions"
PAIR = "preference pairs"
NO_LABEL = "rows without a label"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One record to annotate.

    key: its id; later records with the same id get a number. row: the row to write, without a rationale. is_list:
    whether the label is a JSON list. record: what a local run reads, if it is asked for its own rationale.
    """

    key: str
    input: str
    label: str
    row: dict[str, Any]
    record: Record
    is_list: bool = False


@dataclass(kw_only=True, slots=True)
class ReadCounts:
    """Rows that were read and give no item. bad_rows: rows that no record can be made of. left_out: the others, by kind."""

    bad_rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def items(
    sources: Sequence[Source], extraction: ExtractionConfig, counts: ReadCounts, first: int | None = None
) -> list[Item]:
    """Return the items of all sources in their order, at most `first`; updates `counts`."""
    found: list[Item] = []
    seen: Counter[str] = Counter()
    for item in _all(sources, extraction, counts):
        seen[item.key] += 1
        if seen[item.key] > 1:
            item = _with_key(item, f"{item.key}~{seen[item.key]}")
        found.append(item)
        if first is not None and len(found) >= first:
            break
    return found


def _all(sources: Sequence[Source], extraction: ExtractionConfig, counts: ReadCounts) -> Iterator[Item]:
    for source in sources:
        for _, _, _, record in records(source):
            if isinstance(record, BadRowError):
                counts.bad_rows += 1
                continue
            item = item_of(record, extraction)
            if isinstance(item, Item):
                yield item
            else:
                counts.left_out[item] += 1


def item_of(record: Record, extraction: ExtractionConfig) -> Item | str:
    """Return the item of a record, or the kind of record that cannot be annotated."""
    is_list = isinstance(record, Extraction)
    extra: dict[str, Any] = {}
    if isinstance(record, Distill):
        text, label = record.input, record.label
        extra = {} if record.entities is None else {"entities": [dict(each) for each in record.entities]}
    elif isinstance(record, TwoStep):
        text, label = record.first_input, record.label
    elif isinstance(record, Extraction):
        asked = extraction_prompt(extraction.answer, extraction.types)
        text = f"{asked}:\n{' '.join(record.passages)}"
        label = extraction_answer(record, extraction.answer, extraction.types)
    elif isinstance(record, Instruction):
        *asked_turns, answer = record.messages
        if sum(turn.role == "user" for turn in asked_turns) != 1:
            return CONVERSATION
        text, label = "\n\n".join(turn.content for turn in asked_turns), answer.content
    else:
        return PAIR
    if not label.strip():
        return NO_LABEL
    row = _origin(record.origin)
    if isinstance(record, TwoStep):
        row |= {"input_1": record.first_input, "input_2": record.second_input, "output": label}
    else:
        row |= {"input": text, "label": label} | extra
    return Item(key=record.origin.id, input=text, label=label, row=row, record=record, is_list=is_list)


def _origin(origin: Origin) -> dict[str, Any]:
    found = {"id": origin.id, "group": origin.group, "lang": origin.lang}
    return {name: value for name, value in found.items() if value}


def _with_key(item: Item, key: str) -> Item:
    return Item(
        key=key, input=item.input, label=item.label, row=item.row, record=item.record, is_list=item.is_list
    )
