"""The index of a split: parse, reject, count, and cut into shards whose rows are known before any is tokenized."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medray.config.data import ColumnsConfig
from medray.data.records import BadRowError, Distill, parse
from medray.data.sources import Source
from medray.errors import InputError

_LONGEST_NAME, _MOST_NAMES = 40, 20


@dataclass(frozen=True)
class ShardSpec:
    """Shard `index` holds the `rows` good ones of `raw_rows` rows of a source, from `position` on.

    first: number of its first raw row within the source.
    """

    index: int
    source: int
    position: int
    first: int
    raw_rows: int
    rows: int


@dataclass(frozen=True)
class SplitIndex:
    """What a split holds. rejects: how many rows were left out, a reason each."""

    shards: tuple[ShardSpec, ...]
    rejects: dict[str, int] = field(default_factory=dict)
    with_rationale: int = 0
    with_entities: int = 0

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())

    def write(self, file: Path) -> None:
        staging = file.with_suffix(f".{os.getpid()}")
        staging.write_text(json.dumps(asdict(self)))
        staging.replace(file)

    @classmethod
    def read(cls, file: Path) -> SplitIndex:
        tree = json.loads(file.read_text())
        return cls(**{**tree, "shards": tuple(ShardSpec(**shard) for shard in tree["shards"])})


@dataclass
class SourceIndex:
    """One source's part of the index; shard numbers are given when the parts are joined."""

    shards: list[dict[str, int]]
    rejects: list[dict[str, Any]]
    with_rationale: int
    with_entities: int


def records(
    source: Source, columns: ColumnsConfig, position: int, first: int
) -> Iterator[tuple[int, int, Distill | BadRowError]]:
    """(position, number, record or the reason why there is none) of a source's rows from `position` on."""
    for number, (place, row) in enumerate(source.read(position), first):
        if isinstance(row, BadRowError):
            yield place, number, row
            continue
        try:
            yield place, number, parse(row, columns, source=source.name, number=number)
        except BadRowError as reason:
            yield place, number, reason


def index_source(source: Source, columns: ColumnsConfig, shard_rows: int) -> SourceIndex:
    """Reads a source once. A column that was asked for by name and that no row has is an InputError."""
    _check_columns(source, columns)
    index = SourceIndex([], [], 0, 0)
    rows = records(source, columns, 0, 0)
    while chunk := list(itertools.islice(rows, shard_rows)):
        good = 0
        for _, number, record in chunk:
            if isinstance(record, BadRowError):
                index.rejects.append({"source": source.name, "row": number, "reason": str(record)})
            else:
                good += 1
                index.with_rationale += bool(record.rationale)
                index.with_entities += record.entities is not None
        if good:
            index.shards.append(
                {"position": chunk[0][0], "first": chunk[0][1], "raw_rows": len(chunk), "rows": good}
            )
    return index


def _check_columns(source: Source, columns: ColumnsConfig) -> None:
    """A name that the user gave must be a column of some row; input and label always must."""
    names = {"input", "label"} | (columns.model_fields_set & {"rationale", "id", "group", "entities"})
    wanted = {name: column for name in sorted(names) if (column := getattr(columns, name)) is not None}
    seen: set[str] = set()
    for _, row in source.read():  # the first row has them all, as a rule
        if not isinstance(row, BadRowError):
            seen.update(row)
            if seen.issuperset(wanted.values()):
                return
    for name, column in wanted.items():
        if seen and column not in seen:
            raise InputError(
                f"{source.name} has no such column",
                key=f"data.columns.{name}",
                value=column,
                mend=f"it has {_listed(seen)}",
            )


def _listed(names: set[str]) -> str:
    """Column names as a message may show them: where a header is missing, text of a record stands in its place."""
    shown = [name for name in sorted(names) if len(name) <= _LONGEST_NAME][:_MOST_NAMES]
    hidden = len(names) - len(shown)
    return ", ".join([*shown, *([f"{hidden} more that are not shown"] if hidden else [])])


def join(parts: list[SourceIndex]) -> SplitIndex:
    """One index of a split's sources, in their order."""
    numbered = itertools.count()
    return SplitIndex(
        shards=tuple(
            ShardSpec(index=next(numbered), source=number, **shard)
            for number, part in enumerate(parts)
            for shard in part.shards
        ),
        rejects=dict(Counter(reject["reason"] for part in parts for reject in part.rejects)),
        with_rationale=sum(part.with_rationale for part in parts),
        with_entities=sum(part.with_entities for part in parts),
    )
