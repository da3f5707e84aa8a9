"""Files with answers, in any format that data may have: read, joined with their references by id, and checked."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medray.data import readers
from medray.data.files.remote import shown
from medray.data.printable import column_names
from medray.data.records import BadRowError
from medray.errors import InputError
from medray.evaluate.metrics.rows import Entity, Options, Reference, Rows, answers_alone
from medray.evaluate.scoring.collapse import ENDED, Answer

# Column → its names in files, the first that exists is read. `output` is the reference in published data frames.
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "prediction": ("prediction",),
    "reference": ("reference", "label", "output"),
    "prompt": ("prompt",),
    "group": ("group",),
    "entities": ("entities",),
    "option_logprobs": ("option_logprobs",),
    "option_lengths": ("option_lengths",),
    "finish": ("finish", "finish_reason"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The answers of one file. has_ids: whether the file has ids; else they are the numbers of its rows, from 1.

    prompts: "" where not known. ended: whether generation ended with an end token; None where not known. notes: sentences
    about rows that are left out.
    """

    label: str
    rows: Rows
    has_ids: bool
    prompts: tuple[str, ...]
    ended: tuple[bool | None, ...]
    notes: tuple[str, ...] = ()

    def evidence(self) -> list[Answer]:
        """Return the answers in the form that the rules of `collapse` read; [] without predictions."""
        rows = self.rows
        if rows.predictions is None:
            return []
        wanted = [None] * len(rows) if rows.references is None else [each.text for each in rows.references]
        columns = zip(self.prompts, wanted, rows.predictions, self.ended, strict=True)
        return [Answer(prompt, want, said, ended) for prompt, want, said, ended in columns]

    def of_rows(self, places: Sequence[int]) -> Answers:
        """Return the answers of some rows, in the order of `places`."""
        if list(places) == list(range(len(self.rows))):
            return self

        def take(column: Any) -> Any:
            return None if column is None else tuple(column[place] for place in places)

        rows = self.rows
        return replace(
            self,
            rows=Rows(
                ids=take(rows.ids),
                predictions=take(rows.predictions),
                references=take(rows.references),
                options=take(rows.options),
                groups=take(rows.groups),
            ),
            prompts=take(self.prompts),
            ended=take(self.ended),
        )


def read_rows(path: str, *, key: str) -> list[dict[str, Any]]:
    """Return the rows of a file: JSONL, JSON, CSV, TSV or Parquet, also compressed or at a URL.

    Raises InputError for a file that cannot be read, for a bad row, because its absence would change the scores, and for a
    file without rows. key: the argument that named the file.
    """
    format = readers.known_format(path)
    if format is None:
        raise InputError(
            "the name of this file shows no format",
            file=shown(path),
            key=key,
            fix="use a file that ends in .jsonl, .json, .csv, .tsv or .parquet",
        )
    found = []
    for each in readers.read(path, format):
        if isinstance(each.row, BadRowError):
            raise InputError(
                f"line {each.line} is bad: {each.row}", file=shown(path), key=key, fix="correct this line"
            )
        found.append(dict(each.row))
    if not found:
        raise InputError("the file has no rows", file=shown(path), key=key, fix="use a file with answers")
    return found


def answers_of(
    rows: Sequence[Mapping[str, Any]],
    label: str,
    names: Mapping[str, str],
    references: Mapping[str, Mapping[str, Any]] | None = None,
) -> Answers:
    """Return the answers in the rows of a file.

    names: column → its name in this file, where it differs from COLUMNS. references: rows of another file by id, which have
    the references, and entities, groups or options that the file lacks. Without it, rows that lack a reference, as
    `medray predict` writes them for rows without an answer, are left out if others have one. Raises InputError that names
    `label`.
    """
    table = _Table(rows, label, names)
    ids = table.ids()
    kept, notes = list(range(len(ids))), list[str]()
    if references is None and (column := table.name("reference")) is not None:
        kept = [place for place, row in enumerate(rows) if column in row]
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept)} of {len(rows)} rows have no {column} and are left out")
    if references is not None:
        kept = [place for place, name in enumerate(ids) if name in references]
        notes = _unmatched(label, len(ids), len(kept), len(references))
        joined = _Table([references[ids[place]] for place in kept], f"the references of {label}", {})
    table = table.of_rows(kept)
    truth = table if references is None else joined
    said, wanted = table.texts("prediction"), truth.texts("reference")
    found_references = None
    if said is None and wanted is not None:
        found_references = [Reference(text) for text in wanted]
    elif said is not None:
        predictions, alone = answers_alone(said, wanted)
        said = list(predictions)
        found_references = None if alone is None else [Reference(text) for text in alone]
    entities = truth.entities() or table.entities()
    if found_references is not None and entities is not None:
        found_references = [
            replace(reference, entities=known)
            for reference, known in zip(found_references, entities, strict=True)
        ]
    groups = table.texts("group") or truth.texts("group")
    finish = table.column("finish")
    return Answers(
        label=label,
        rows=Rows(
            ids=tuple(ids[place] for place in kept),
            predictions=None if said is None else tuple(said),
            references=None if found_references is None else tuple(found_references),
            options=table.options() or truth.options(),
            groups=None if groups is None else tuple(groups),
        ),
        has_ids=table.has_ids,
        prompts=tuple(table.texts("prompt") or [""] * len(kept)),
        ended=tuple(ENDED.get(str(each)) for each in finish or [None] * len(kept)),
        notes=tuple(notes),
    )


def by_id(
    rows: Sequence[Mapping[str, Any]], label: str, names: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a file of references by their ids. Raises InputError without ids or references, and for double ids."""
    table = _Table(rows, label, names)
    if not table.has_ids:
        raise InputError(
            "the references have no column id, by which they are joined with the predictions",
            file=label,
            key="--references",
            fix="add the column, or name it with --columns id=NAME",
        )
    if table.name("reference") is None and table.name("entities") is None:
        raise InputError(
            f"no row has one of the columns {', '.join(COLUMNS['reference'])}",
            file=label,
            key="--references",
            fix="name the column with --columns reference=NAME",
        )
    renamed = {table.name(column): column for column in COLUMNS if table.name(column) is not None}
    # A column that has the name of another one, such as `reference` with --columns reference=gold, is not read.
    hidden = set(renamed.values()) - set(renamed)
    ids = table.ids()
    return {
        name: {renamed.get(column, column): value for column, value in row.items() if column not in hidden}
        for name, row in zip(ids, rows, strict=True)
    }


def common(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Return the rows that both files have, in the order of the first.

    Raises InputError without a common id, or if only one file has ids. Files without ids are joined by row number if they
    have the same number of rows.
    """
    if not (first.has_ids and second.has_ids) and (
        first.has_ids != second.has_ids or len(first.rows) != len(second.rows)
    ):
        raise InputError(
            f"{first.label} and {second.label} cannot be joined: rows have no ids in both files, and the files have "
            f"{len(first.rows)} and {len(second.rows)} rows",
            key="--compare",
            fix="write the column id in both files, or name it with --columns id=NAME",
        )
    place = {name: number for number, name in enumerate(second.rows.ids)}
    shared = [number for number, name in enumerate(first.rows.ids) if name in place]
    if not shared:
        raise InputError(
            f"{first.label} and {second.label} have no id in common",
            key="--compare",
            fix="compare files that answer the same rows",
        )
    return first.of_rows(shared), second.of_rows([place[first.rows.ids[number]] for number in shared])


def _unmatched(label: str, rows: int, kept: int, references: int) -> list[str]:
    if not kept:
        raise InputError(
            f"no id of the {rows} predictions is among the {references} references",
            file=label,
            key="--references",
            fix="use the references of these rows, or name their ids with --columns id=NAME",
        )
    notes = []
    if kept < rows:
        notes.append(f"{rows - kept} of {rows} predictions have no reference and are left out")
    if kept < references:
        notes.append(f"{references - kept} of {references} references have no prediction and are left out")
    return notes


class _Table:
    """Rows of one file, read by column."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], label: str, names: Mapping[str, str]) -> None:
        self._rows, self._label, self._names = rows, label, names
        self._columns = {column for row in rows for column in row}
        for column, name in names.items():
            if name not in self._columns:
                raise InputError(
                    f"there is no column {name[:80]!r} for {column}",
                    file=label,
                    key="--columns",
                    fix=f"use a column of the file; among them are {column_names(self._columns)}"
                    if column_names(self._columns)
                    else "use a column of the file",
                )
        self.has_ids = self.name("id") is not None

    def name(self, column: str) -> str | None:
        """Return the name of a column in this file, None if it is absent."""
        if column in self._names:
            return self._names[column]
        taken = set(self._names.values())
        return next((each for each in COLUMNS[column] if each in self._columns and each not in taken), None)

    def of_rows(self, places: Sequence[int]) -> _Table:
        if len(places) == len(self._rows):
            return self
        return _Table([self._rows[place] for place in places], self._label, self._names)

    def column(self, column: str) -> list[Any] | None:
        """Return the values of a column; None if the file lacks it. Raises InputError if only some rows have it."""
        name = self.name(column)
        if name is None:
            return None
        if lacking := [number for number, row in enumerate(self._rows, 1) if name not in row]:
            raise self._wrong(name, lacking, "have no such value")
        return [row[name] for row in self._rows]

    def ids(self) -> list[str]:
        """Return the ids as text. Raises InputError for an id that occurs twice or is not text or a whole number."""
        found = self.column("id")
        if found is None:
            return [str(number) for number in range(1, len(self._rows) + 1)]
        bad = [
            number
            for number, each in enumerate(found, 1)
            if isinstance(each, bool) or not isinstance(each, str | int) or each == ""
        ]
        if bad:
            raise self._wrong(str(self.name("id")), bad, "have an id that is not text or a whole number")
        ids = list(map(_text, found))
        if len(set(ids)) < len(ids):
            double = [name for name, count in Counter(ids).items() if count > 1]
            raise InputError(
                f"ids occur more than once: {len(double)} of {len(set(ids))}, such as {double[0][:80]!r}",
                file=self._label,
                fix="keep one row per id, or name another column with --columns id=NAME",
            )
        return ids

    def texts(self, column: str) -> list[str] | None:
        """Return a column as texts. A list or an object is written as JSON; null is an empty text."""
        found = self.column(column)
        return None if found is None else [_text(each) for each in found]

    def entities(self) -> list[tuple[Entity, ...]] | None:
        """Return the entities of each row's reference, given as a list of texts or of {text, assertion, type}."""
        found = self.column("entities")
        if found is None or all(each is None or each == "" for each in found):
            return None
        made, bad = [], []
        for number, each in enumerate(found, 1):
            try:
                made.append(tuple(map(_entity, _listed_json(each))))
            except (ValueError, TypeError, KeyError, AttributeError):
                bad.append(number)
        if bad:
            raise self._wrong(str(self.name("entities")), bad, "have no list of entities")
        return made

    def options(self) -> tuple[Options, ...] | None:
        """Return the log-probabilities of each row's options, and their lengths if the file has them."""
        found, lengths = self.column("option_logprobs"), self.column("option_lengths")
        if found is None:
            return None
        made, bad = [], []
        for number, each in enumerate(found, 1):
            try:
                known = None if lengths is None else _numbers(lengths[number - 1])
                made.append(Options(_numbers(each), known))
            except (ValueError, TypeError):
                bad.append(number)
        if bad:
            raise self._wrong(str(self.name("option_logprobs")), bad, "have no list of numbers")
        return tuple(made)

    def _wrong(self, name: str, numbers: Sequence[int], what: str) -> InputError:
        return InputError(
            f"column {name[:80]!r}: {len(numbers)} of {len(self._rows)} rows {what} (the first is row {numbers[0]})",
            file=self._label,
            fix="correct these rows, or name another column with --columns",
        )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()  # no half of a pair
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value, ensure_ascii=False)


def _listed_json(value: Any) -> list[Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if found is None:
        return []
    if not isinstance(found, list):
        raise TypeError
    return found


def _numbers(value: Any) -> tuple[float, ...]:
    """Return a list of numbers, or the values of {option: number} in the order of the options' names."""
    found = json.loads(value) if isinstance(value, str) else value
    if isinstance(found, dict):
        found = [found[name] for name in sorted(found)]
    if not isinstance(found, list) or not found:
        raise TypeError
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in found):
        raise TypeError
    return tuple(map(float, found))


def _entity(value: Any) -> Entity:
    if isinstance(value, str):
        return Entity(value)
    return Entity(str(value["text"]), str(value.get("assertion") or "present"), str(value.get("type") or ""))
