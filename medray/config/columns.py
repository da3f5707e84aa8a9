"""The columns of a source, and the forms in which a config can name them: a name, a dotted path, a template, a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import field_validator, model_validator

from medray.config.section import Section, key

Column = str | tuple[str, ...]

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


@lru_cache(maxsize=1024)
def template_parts(text: str) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a template over columns: (literal text, False) or (name or path of a column, True).

    A column is in braces; a doubled brace is a literal one. A text without braces has one literal part. Raises
    ValueError with the problem and a fix for a brace without its partner.
    """
    parts: list[tuple[str, bool]] = []
    literal, end = "", 0
    for piece in _PIECE.finditer(text):
        literal += text[end : piece.start()]
        end = piece.end()
        if piece[0] in ("{{", "}}"):
            literal += piece[0][0]
        elif piece[1] is None:
            raise ValueError(
                f"the template has a {piece[0]!r} without its partner or without a column, at character {piece.start() + 1}",
                f"write a column as {{name}}, and a brace that is text as {piece[0] * 2}",
            )
        else:
            parts += [(literal, False)] * bool(literal) + [(piece[1].strip(), True)]
            literal = ""
    literal += text[end:]
    return (*parts, *[(literal, False)] * bool(literal))


def is_template(text: str) -> bool:
    """Return whether a text is a template over columns, and not the name or path of one."""
    return "{" in text or "}" in text


def columns_in(column: Column) -> Iterator[str]:
    """Yield the names and paths of columns that a template, a list or a single name contains."""
    for each in (column,) if isinstance(column, str) else column:
        if is_template(each):
            yield from (name for name, is_column in template_parts(each) if is_column)
        else:
            yield each


class ColumnsConfig(Section):
    """The columns of a source. A column with its default name may be missing in a file; any other name must exist.

    input, label and rationale take the name of a column, a dotted path into nested values (`a.b.0`), a template over
    columns ("{question}\\nA) {opa}"), or a list of these, whose texts are joined by a blank line.
    """

    input: Column = key(
        "input",
        "The text that the model reads: a column, a dotted path (a.b.0), a template over columns "
        '("{question}\\nA) {opa}"; {{ is a brace), or a list of these, joined by a blank line. A list of texts is joined '
        "by line ends.",
    )
    label: Column = key("label", "The text that the model learns to write; the forms are those of input.")
    label_names: dict[str, str] | None = key(
        None,
        "Text of each value of the label column, such as {'0': benign, '1': malignant}; a list counts from 0. A row with "
        "another value is a bad row.",
    )
    label_options: Column | dict[str, str] | None = key(
        None,
        "The options that the label column chooses from; the chosen one is the label. A list of columns (counted from 0 or "
        "lettered from A), a column that holds a list or an object, or {value: column} such as {'1': opa, '2': opb}.",
    )
    rationale: Column | None = key(
        "rationale",
        "The reasons for the label: key facts or a chain of thought, as text, a list, or {key: text}. The forms are those of "
        "input.",
    )
    id: str | None = key("id", "A unique id of the record; default: file name and row number, from 1.")
    group: str | None = key("group", "The document or patient that a record belongs to.")
    lang: str | None = key("lang", "Language of the record.")
    entities: str | None = key("entities", "List of {text, assertion} in the label: the truth of entity_f1.")

    @field_validator("label_names", mode="before", json_schema_input_type=dict[str, str] | list[str] | None)
    @classmethod
    def _counted_from_0(cls, value: object) -> object:
        """Accept a list of names, whose values are counted from 0."""
        if isinstance(value, list | tuple):
            return {str(number): name for number, name in enumerate(value)}
        return value

    @field_validator("input", "label", "rationale", "label_options")
    @classmethod
    def _readable(cls, value: Column | dict[str, str] | None) -> Column | dict[str, str] | None:
        """Refuse an empty list, and a template that cannot be parsed or has no column."""
        if value is None:
            return None
        found = (
            tuple(value.values())
            if isinstance(value, dict)
            else (value,)
            if isinstance(value, str)
            else value
        )
        if not found:
            raise ValueError("expected at least one column", "write the name of a column")
        for each in found:
            if is_template(each) and not any(is_column for _, is_column in template_parts(each)):
                raise ValueError("the template contains no column", "write a column as {name}")
            if is_template(each) and "\\n" in each:  # single quotes and a shell do not make a line end of it
                raise ValueError(
                    "the template contains a backslash and an n, which is not a line end",
                    'write it in double quotes, such as "{question}\\nA) {opa}"; on a command line, put single quotes around '
                    "all: 'data.columns.input=\"{question}\\nA) {opa}\"'",
                )
        return value

    @model_validator(mode="after")
    def _a_default_is_not_given(self) -> ColumnsConfig:
        """Treat default names as not given, so that the resolved config of a run, which has all names, means the same."""
        for name, field in type(self).model_fields.items():
            if getattr(self, name) == field.default:
                self.model_fields_set.discard(name)
        return self

    @model_validator(mode="after")
    def _one_rule_for_labels(self) -> ColumnsConfig:
        if self.label_names is not None and self.label_options is not None:
            raise ValueError(
                "label_names and label_options are both set, but the label has one text",
                "remove one of them; for a letter and a text, use label_options: {'0': 'A) {opa}', …}",
            )
        return self

    def named_by(self, key: str) -> list[str]:
        """Return the names and paths of columns that the value of a key contains."""
        value = getattr(self, key)
        if value is None:
            return []
        return list(columns_in(tuple(value.values()) if isinstance(value, dict) else value))

    def decisive(self) -> dict[str, Any]:
        """Return the keys that determine records, for a fingerprint.

        Keys that were added later count only if they are set, so that older shards stay valid.
        """
        younger = {name for name in ("label_names", "label_options") if getattr(self, name) is None}
        return self.model_dump(exclude=younger)
