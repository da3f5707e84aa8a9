"""Typed records: what every reader turns a source's rows into. A row that cannot become one is a BadRowError."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medray.config.data import ColumnsConfig


class BadRowError(ValueError):
    """A row that is left out; the message is the reason and holds no text of the row."""


@dataclass(frozen=True)
class Distill:
    """An input with the label to be written and, where there is one, the rationale for it.

    entities: the truth of entity_f1 as ({"text", "assertion"}, …); None where the source has none.
    """

    id: str
    source: str
    group: str
    lang: str
    input: str
    label: str
    rationale: str | None
    entities: tuple[Mapping[str, Any], ...] | None


def parse(row: Mapping[str, Any], columns: ColumnsConfig, *, source: str, number: int) -> Distill:
    """The record of a source's row. number: its 0-based place in the source, which names it where it has no id.

    Raises BadRowError for a missing or empty input or label and for values of another type than text.
    """
    record_id = _text(row, columns.id) or f"{source}:{number}"
    return Distill(
        id=record_id,
        source=source,
        group=_text(row, columns.group) or record_id,
        lang=_text(row, "lang") or "",
        input=_required(row, columns.input),
        label=_required(row, columns.label),
        rationale=_text(row, columns.rationale),
        entities=_entities(row, columns.entities),
    )


def _required(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise BadRowError(f"no column {column!r}")
    text = _text(row, column)
    if not text:
        raise BadRowError(f"column {column!r} is empty")
    return text


def _text(row: Mapping[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes NaN for no value
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r} holds a {type(value).__name__}, not text")
    if "\x00" in value:
        raise BadRowError(f"column {column!r} holds a NUL byte")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRowError(f"column {column!r} holds half of a surrogate pair") from None
    return value.replace("\r\n", "\n").strip()


def _entities(row: Mapping[str, Any], column: str | None) -> tuple[Mapping[str, Any], ...] | None:
    value = row.get(column) if column else None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise BadRowError(f"column {column!r} is not a JSON list") from None
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("text"), str) for item in value
    ):
        raise BadRowError(f"column {column!r} is not a list of objects with a text")
    return tuple(
        {"text": item["text"], "assertion": str(item.get("assertion") or "present")} for item in value
    )
