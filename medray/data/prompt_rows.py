"""Records of new data, whose rows may have no answer yet, by the same schemas as in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medray.config.columns import ColumnsConfig
from medray.data.records import BadRowError, Distill, Record
from medray.data.row_text import Row, label_text
from medray.data.schemas import form_of, parse

NO_ANSWER = "x"  # replaces an answer that does not exist yet, because a prompt is the text before an answer
_USERS = ("user", "human", "prompter")
# Form → (the column of its turns, the key of a speaker, the key of a text).
_TALKS = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
    "taiyi": ("conversation", "from", "value"),
}
# Columns that a row without an answer has → its form, if `form_of` does not know it.
_ASKED = (("instruction", "alpaca"), ("passages", "bigbio"), ("prompt", "meditron"))
# Form → columns of the answer, with their replacements.
_STAND_INS: dict[str, dict[str, Any]] = {
    "alpaca": {"output": NO_ANSWER},
    "meditron": {"gold": NO_ANSWER},
    "preference": {"chosen": NO_ANSWER, "rejected": f"{NO_ANSWER} {NO_ANSWER}"},
    "bigbio": {"entities": []},
}
_NO_LABEL = {"label": (), "label_names": None, "label_options": None}


def prompt_record(
    row: Row, columns: ColumnsConfig, *, form: str = "auto", source: str, number: int
) -> tuple[Record, bool]:
    """Convert a row that may lack an answer to a record. Return it, and whether the answer is the row's own.

    The arguments are those of `schemas.parse`, and so is the record, except that a missing answer is NO_ANSWER. A label
    that has no name or option, such as the -1 of a published test split, counts as missing. Raises BadRowError if the
    row lacks what a model reads.
    """
    form = _form(row, columns) if form == "auto" else form
    filled, answered = row, True
    if form in ("columns", "taught", "two_step"):
        answered = _has_label(row, columns, form)
        if not answered and form == "two_step":
            filled = {**row, "output": NO_ANSWER}
        elif not answered:
            # The schema of a teacher's answers is that of columns without a rule for the label.
            form, columns = "taught", columns.model_copy(update=_NO_LABEL)
    elif form in _TALKS:
        filled, answered = _answered_talk(row, *_TALKS[form])
    else:
        missing = {
            name: value for name, value in _STAND_INS.get(form, {}).items() if row.get(name) in (None, "")
        }
        filled, answered = {**row, **missing}, not missing
    record = parse(filled, columns, form=form, source=source, number=number)
    if isinstance(record, Distill) and not answered:
        record = replace(record, label=NO_ANSWER)
    return record, answered


def _form(row: Row, columns: ColumnsConfig) -> str:
    """Return the schema of a row whose answer may be missing."""
    form = form_of(row, columns)
    if (
        form != "columns"
        or columns.model_fields_set & {"input", "label"}
        or row.get("label")
        or "output" in row
    ):
        return form
    return next((asked for column, asked in _ASKED if column in row), form)


def _has_label(row: Row, columns: ColumnsConfig, form: str) -> bool:
    if form == "two_step" and row.get("output"):
        return True
    try:
        return bool(label_text(row, columns))
    except BadRowError:
        return False


def _answered_talk(row: Row, column: str, speaker: str, text: str) -> tuple[Row, bool]:
    """Return a conversation that ends with an answer."""
    turns = row.get(column)
    last = turns[-1] if isinstance(turns, list | tuple) and turns else None
    if isinstance(last, Mapping) and str(last.get(speaker, last.get("role"))).lower() in _USERS:
        return {**row, column: [*turns, {speaker: "assistant", text: NO_ANSWER}]}, False  # type: ignore[misc]
    if isinstance(last, Mapping) and last.get("human") and not last.get("assistant"):
        return {**row, column: [*turns[:-1], {**last, "assistant": NO_ANSWER}]}, False  # type: ignore[index]
    return row, True
