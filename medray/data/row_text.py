"""The texts of a row: single columns, nested values, templates over columns, and lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from medray.config.columns import Column, ColumnsConfig, is_template, template_parts
from medray.data.records import BadRowError

Row = Mapping[str, Any]
MISSING = object()
_INDEX = re.compile(r"\d{1,9}")


class NoTextError(BadRowError):
    """A row in which a column is missing or empty."""


def value(row: Any, path: str) -> Any:
    """Return the value of a column, or the one at a dotted path; MISSING if there is none.

    A column whose own name has dots takes precedence. A number in a path is the index in a list, from 0. A nested value
    may be JSON text, because CSV has no lists.
    """
    if isinstance(row, str) and row[:1] in ("[", "{"):
        row = _from_json(row)
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        for end in (at for at, character in enumerate(path) if character == "."):
            if path[:end] in row:
                return value(row[path[:end]], path[end + 1 :])
        return MISSING
    if isinstance(row, list | tuple):
        first, _, rest = path.partition(".")
        if _INDEX.fullmatch(first) and int(first) < len(row):
            return value(row[int(first)], rest) if rest else row[int(first)]
    return MISSING


def is_there(path: str, names: Collection[str]) -> bool:
    """Return whether the column that a name or dotted path begins with is among some names."""
    return path in names or any(path[:end] in names for end, character in enumerate(path) if character == ".")


def composed(row: Row, column: Column) -> str:
    """Return the text of a column, a dotted path, a template over columns, or a list of these.

    A list of texts in one column is joined by line ends. A template needs all of its columns. Entries of a list are
    joined by blank lines, and those without a text are left out. Raises NoTextError if no text is left, and BadRowError
    for values that are not text.
    """
    if isinstance(column, str):
        return _filled(row, column) if is_template(column) and column not in row else _single(row, column)
    texts = []
    for each in column:
        with suppress(NoTextError):
            texts.append(composed(row, each))
    if not texts:
        raise NoTextError(f"none of the {len(column)} columns has a text")
    return "\n\n".join(texts)


def _filled(row: Row, template: str) -> str:
    parts = template_parts(template)
    filled = "".join(_single(row, part) if is_column else part for part, is_column in parts)
    return filled.replace("\r\n", "\n").strip()


def _single(row: Row, column: str) -> str:
    found = row[column] if column in row else value(row, column)
    if found is MISSING:
        raise NoTextError(f"no column {column!r}")
    if isinstance(found, list | tuple):
        texts = [as_text(item, column) for item in found if item is not None]
        joined = "\n".join(each for each in texts if each)
    else:
        joined = as_text(found, column) if found is not None else ""
    if not joined:
        raise NoTextError(f"column {column!r} is empty")
    return joined


def label_text(row: Row, columns: ColumnsConfig) -> str:
    """Return the label of a row: its text, the name of its value, or the option that it chooses.

    Raises BadRowError if there is none, or if the value has no name or no option.
    """
    label = columns.label
    if "label" not in columns.model_fields_set and label not in row and "output" in row:
        label = "output"  # the name in MeDistill
    if columns.label_options is not None:
        return _option(row, label, columns.label_options)
    if columns.label_names is None:
        return composed(row, label)
    name = columns.label_names.get(_choice(row, label, columns.label_names))
    if name is None:
        raise BadRowError(f"the value of {_said(label)} is not in label_names")
    return name


def _option(row: Row, label: Column, options: Column | dict[str, str]) -> str:
    """Return the text of the option that the label chooses."""
    if isinstance(options, str) and not is_template(options):
        given = value(row, options)
        given = _from_json(given) if isinstance(given, str) else given
        if isinstance(given, Mapping):
            chosen = _choice(row, label, given)
            if chosen in given:
                return composed(given, chosen)
            raise BadRowError(f"the value of {_said(label)} is not a key of column {options!r}")
        if not isinstance(given, list | tuple):
            raise BadRowError(
                f"no column {options!r}"
                if given is MISSING
                else f"column {options!r} is not a list or object"
            )
        return composed({options: given[_index(row, label, len(given))]}, options)
    if isinstance(options, dict):
        column = options.get(_choice(row, label, options))
        if column is None:
            raise BadRowError(f"the value of {_said(label)} is not in label_options")
        return composed(row, column)
    columns = (options,) if isinstance(options, str) else options
    return composed(row, columns[_index(row, label, len(columns))])


def _index(row: Row, label: Column, count: int) -> int:
    """Return the index of an option from its number, counted from 0, or its letter."""
    chosen = _choice(row, label, {})
    if re.fullmatch(r"[A-Za-z]", chosen):
        number = ord(chosen.upper()) - ord("A")
    else:
        number = int(chosen) if _INDEX.fullmatch(chosen) else count
    if number >= count:
        raise BadRowError(
            f"the value of {_said(label)} is neither a number from 0 to {count - 1} nor the letter of an option"
        )
    return number


def _choice(row: Row, label: Column, among: Mapping[str, Any]) -> str:
    """Return the value of the label column as a key: a whole number without `.0`, true or false in lower case."""
    found = (row[label] if label in row else value(row, label)) if isinstance(label, str) else MISSING
    if isinstance(found, bool):
        return str(found).lower() if str(found) not in among else str(found)
    chosen = composed(row, label)
    # A column of numbers with a gap is written with a decimal point by pandas.
    return chosen.removesuffix(".0") if chosen not in among and re.fullmatch(r"-?\d+\.0", chosen) else chosen


def _said(label: Column) -> str:
    return f"column {label!r}" if isinstance(label, str) else "the label columns"


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def required(row: Row, column: str) -> str:
    """Return the text of a column that must have one. Raises BadRowError if it is missing or empty."""
    if column not in row:
        raise NoTextError(f"no column {column!r}")
    found = text(row, column)
    if not found:
        raise NoTextError(f"column {column!r} is empty")
    return found


def text(row: Row, column: str | None) -> str | None:
    """Return the text of a column or dotted path, or None if it has no value. Numbers and booleans are converted to text."""
    if column is None:
        return None
    found = row.get(column)
    if found is None and "." in column:
        found = value(row, column)
    return None if found is None or found is MISSING else as_text(found, column) or None


def as_text(value: Any, column: str | None) -> str:
    """Return a value as text, "" for NaN. Raises BadRowError for a list, an object or text that cannot be encoded."""
    if type(value) is str and value.isascii() and "\x00" not in value:  # nearly all values of a corpus
        return value.replace("\r\n", "\n").strip()
    if isinstance(value, float) and math.isnan(value):  # pandas writes NaN for a missing value
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r} holds a {type(value).__name__}, not text")
    if "\x00" in value:
        raise BadRowError(f"column {column!r} contains a NUL byte")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRowError(f"column {column!r} contains an unpaired surrogate") from None
    return value.replace("\r\n", "\n").strip()
