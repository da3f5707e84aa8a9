"""The rows to predict: files and corpora without labels too, or the validation shards of a run.

A source is divided into parts of consecutive rows. One part is one unit of work: its rows are asked together, sorted by
length, and written to one file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.render import reference, target
from medray.data.index.sources import Source
from medray.data.prompt_rows import prompt_record
from medray.data.readers import RowReader
from medray.data.records import BadRowError, Distill, Extraction, Found, Record
from medray.data.shards.token_split import TokenSet
from medray.errors import RunFailedError
from medray.evaluate.asking import Prompter

UNIT_ROWS = 32  # rows whose position in a file is known; a part consists of whole units
MOST_REJECTS = 10_000  # rejects that are kept of one range
MOST_COLUMNS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Consecutive rows of one source.

    source: number of the source. position: of the first row, as the source's reader counts. first: number of the first
    row in the source. raw_rows: rows to read. rows: those of them that can be predicted.
    """

    source: int
    position: int
    first: int
    raw_rows: int
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One row to predict.

    ids: the prompt, int32 [tokens]; empty if the template cannot show the row. cut: whether the prompt lost text to a
    limit; None if unknown. reference: the true answer, if the row has one. entities: true entities for the metric
    entity_f1. record: None for rows of token shards.
    """

    id: str
    ids: np.ndarray
    cut: bool | None
    reference: str | None
    entities: Sequence[Mapping[str, Any]] | None = None
    record: Record | None = None


class Rows(Protocol):
    """The rows of a job. An object of this kind is sent to the actors."""

    def read(self, part: Part, prompter: Prompter, task: str) -> list[Question]:
        """Return the rows of a part, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeUnits:
    """The index of one range of a source: [position, raw rows, usable rows] of each unit, and what is wrong with others."""

    units: list[list[int]]
    lines: int
    rejects: list[dict[str, Any]]
    reasons: Counter[str] = field(default_factory=Counter)
    columns_seen: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRows:
    """The rows of files and corpora, which can be read from any position.

    samples: how often each row is asked. With more than one, the ids are `<id>#0`, `<id>#1`, …, and `rows` of a part
    counts the answers.
    """

    sources: tuple[Source, ...]
    samples: int = 1

    def records(self, part: Part) -> list[tuple[Record, bool]]:
        """Return the records of a part, and whether each has an answer. Raises RunFailedError if the file has changed."""
        source = self.sources[part.source]
        with closing(_records(source, part.position, None, part.first)) as reading:
            found = [pair for _, pair in islice(reading, part.raw_rows) if not isinstance(pair, BadRowError)]
        if len(found) * self.samples != part.rows:
            raise RunFailedError(
                f"{source.name} changed while it was read: a part has {len(found)} rows instead of "
                f"{part.rows // self.samples}. Fix: "
                "run the command again with another --to, while nothing writes to this file"
            )
        return found

    def read(self, part: Part, prompter: Prompter, task: str) -> list[Question]:
        found = self.records(part)
        prompts = prompter.prompts([record for record, _ in found], task)
        questions = [
            _question(record, answered, ids, cut, task, prompter.asked.spec)
            for (record, answered), ids, cut in zip(found, prompts.ids, prompts.cut, strict=True)
        ]
        if self.samples == 1:
            return questions
        return [
            replace(each, id=f"{each.id}#{number}") for each in questions for number in range(self.samples)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRows:
    """The rows of token shards: a run's validation split, with the prompts that training wrote."""

    tokens: TokenSet

    def parts(self, part_rows: int) -> list[Part]:
        count = self.tokens.index.rows
        sizes = [min(part_rows, count - start) for start in range(0, count, part_rows)]
        return [
            Part(source=0, position=n * part_rows, first=n * part_rows, raw_rows=size, rows=size)
            for n, size in enumerate(sizes)
        ]

    def read(self, part: Part, prompter: Prompter, task: str) -> list[Question]:
        import json

        store = self.tokens.store()
        questions = []
        for place in self.tokens.rows()[part.position : part.position + part.rows]:
            entities = store.text(*place, "entities")
            questions.append(
                Question(
                    id=store.text(*place, "id") or "",
                    ids=store.prompt(*place, task),
                    cut=None,
                    reference=store.text(*place, "reference") if task == "label" else None,
                    entities=None if entities is None else json.loads(entities),
                )
            )
        return questions


def index_range(source: Source, start: int, stop: int | None) -> RangeUnits:
    """Read one range of a source, and return its units and its bad rows. Lines count from the start of the range."""
    units: list[list[int]] = []
    rejects: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    seen: set[str] = set()
    line, position = 0, -1
    reading = source.read(start, stop)
    try:
        for found in reading:
            # The lines of one bad row share its position, so a unit cannot begin between them.
            if not units or (units[-1][1] >= UNIT_ROWS and found.position != position):
                units.append([found.position, 0, 0])
            units[-1][1] += 1
            line, position = found.line, found.position
            if not isinstance(found.row, BadRowError) and len(seen) < MOST_COLUMNS:
                seen.update(found.row)
            try:
                _parsed(found, source, 0)
                units[-1][2] += 1
            except BadRowError as reason:
                reasons[str(reason)] += 1
                if len(rejects) < MOST_REJECTS:
                    file = found.file or source.name
                    rejects.append({"file": file, "line": found.line, "reason": str(reason)})
        lines = getattr(reading, "lines", None) or line
    finally:
        if isinstance(reading, RowReader):
            reading.close()
    return RangeUnits(
        units=units, lines=lines, rejects=rejects, reasons=reasons, columns_seen=frozenset(seen)
    )


def parts_of(sources: Sequence[Sequence[RangeUnits]], part_rows: int) -> list[Part]:
    """Join units to parts of about `part_rows` rows. sources: the ranges of each source, in order."""
    parts = []
    for number, ranges in enumerate(sources):
        first = at = 0
        open_: list[list[int]] = []
        for unit in [unit for each in ranges for unit in each.units]:
            open_.append(unit)
            at += unit[1]
            if at - first >= part_rows:
                parts.append(_part(number, first, open_))
                first, open_ = at, []
        if open_:
            parts.append(_part(number, first, open_))
    return parts


def _part(source: int, first: int, units: Sequence[Sequence[int]]) -> Part:
    return Part(
        source=source,
        position=units[0][0],
        first=first,
        raw_rows=sum(raw for _, raw, _ in units),
        rows=sum(good for *_, good in units),
    )


def _records(
    source: Source, start: int, stop: int | None, first: int
) -> Generator[tuple[int, tuple[Record, bool] | BadRowError], None, None]:
    """Yield (number, (record, whether it has an answer)) for the rows from `start` on; a bad row yields its error."""
    reading = source.read(start, stop)
    try:
        for number, found in enumerate(reading, first):
            try:
                yield number, _parsed(found, source, number)
            except BadRowError as reason:
                yield number, reason
    finally:
        if isinstance(reading, RowReader):
            reading.close()


def _parsed(found: Found, source: Source, number: int) -> tuple[Record, bool]:
    if isinstance(found.row, BadRowError):
        raise found.row
    return prompt_record(found.row, source.columns, form=source.form, source=source.name, number=number)


def _question(
    record: Record, answered: bool, ids: np.ndarray, cut: bool, task: str, spec: EncodeSpec
) -> Question:
    if task != "label":
        known = target(record, task, spec) or None
    else:
        known = reference(record, spec) if answered else None
    if isinstance(record, Extraction) and not answered:
        known = None
    return Question(
        id=record.origin.id,
        ids=ids,
        cut=cut,
        reference=known,
        entities=record.entities if isinstance(record, Distill) else None,
        record=record,
    )
