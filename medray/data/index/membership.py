"""The decision which row belongs to which split: duplicates, subsample, validation split, leakage, and the resulting
shards.

It uses only the hashes of an index, so it needs 34 bytes per row and never sees a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from medray.config.data import DataConfig
from medray.data.corpora.published import holdout, subsample
from medray.data.index.id_file import read_ids, rows_with
from medray.data.index.row_index import RangeIndex
from medray.errors import InputError
from medray.storage import StoragePath, json_files

MADE_AGAIN = "delete this file and run the same command again, which creates the file again from the data"
_SHOWN = 3  # leaked rows that a message names


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSpec:
    """The rows that one token shard will contain: `rows` of the `raw_rows` rows that begin at `position` in a source.

    first: number of the first raw row within the source. kept: one bit per raw row that says whether it is in the
    shard, as hex; "" if all are. renamed: (raw row, n) for rows whose id occurs for the n-th time, counted from 1.
    """

    index: int
    source: int
    position: int
    first: int
    raw_rows: int
    rows: int
    kept: str = ""
    renamed: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, tree: dict[str, Any]) -> ShardSpec:
        """Return the shard of a dict that `asdict` made and JSON stored.

        Raises TypeError or ValueError for other dicts.
        """
        found = cls(**{**tree, "renamed": tuple((row, n) for row, n in tree["renamed"])})
        counts = [found.index, found.source, found.position, found.first, found.raw_rows, found.rows]
        if not all(
            map(json_files.is_count, [*counts, *(number for pair in found.renamed for number in pair)])
        ):
            raise TypeError
        bytes.fromhex(found.kept)
        return found

    def mask(self) -> np.ndarray:
        """Return for each raw row whether it is in the shard, bool [raw_rows]."""
        if not self.kept:
            return np.ones(self.raw_rows, bool)
        bits = np.frombuffer(bytes.fromhex(self.kept), np.uint8)
        return np.unpackbits(bits, count=self.raw_rows).astype(bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitIndex:
    """The rows of one split: its shards, and counts of what was left out.

    rejects: number of bad rows by reason. dropped: number of good rows left out, by reason. duplicates: rows that
    repeat input and answer of an earlier row and are kept. repeated_ids: rows with the id of an earlier row. corpora:
    for each source, the number of its entry in the config. empty_labels: rows whose label is empty or an empty list.
    one_label: whether all labels are the same text. types: types of the entities or relations in the answers.
    knows_labels: False for an index written before the last three were counted. missing_ids: ids in the file of
    data.split.validation_ids that no row has.
    """

    shards: tuple[ShardSpec, ...]
    corpora: tuple[int, ...] = (0,)
    rejects: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    repeated_ids: int = 0
    with_rationale: int = 0
    with_entities: int = 0
    empty_labels: int = 0
    one_label: bool = False
    types: tuple[str, ...] = ()
    knows_labels: bool = False
    missing_ids: int = 0

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())

    def write(self, file: StoragePath) -> None:
        json_files.write_sealed(file, asdict(self))

    @classmethod
    def read(cls, file: StoragePath) -> SplitIndex:
        """Read the index of a split from a file. Raises InputError if it is damaged."""
        tree = json_files.read_sealed(file, fix=MADE_AGAIN)
        with json_files.checking(file, fix=MADE_AGAIN):
            shards = tuple(map(ShardSpec.of, tree.pop("shards")))
            lists = {name: tuple(tree.get(name, ())) for name in ("corpora", "types")}
            found = cls(**{**tree, "shards": shards, **lists})
            counts = (
                *found.corpora,
                found.duplicates,
                found.repeated_ids,
                found.with_rationale,
                found.with_entities,
                found.empty_labels,
                found.missing_ids,
            )
            if not all(map(json_files.is_count, (*counts, *found.rejects.values(), *found.dropped.values()))):
                raise TypeError
        return found


@dataclass(frozen=True)
class SourceParts:
    """The indexed ranges of one source, in order. corpus: number of the source's entry in the config."""

    name: str
    corpus: int
    ranges: Sequence[RangeIndex]


def join(
    train: Sequence[SourceParts],
    validation: Sequence[SourceParts],
    data: DataConfig,
    *,
    seed: int,
    hold_out: float = 0.0,
) -> dict[str, SplitIndex]:
    """Return the index of each split that has sources: assign the rows to splits and remove those that may not be used.

    hold_out: default share of the training rows for validation, for corpora that were published without a validation
    split. Raises InputError for leakage that is not allowed.
    """
    rows = _Rows(train)
    keep, dropped = rows.good.copy(), Counter(rows.left_out)
    listed, missing = np.zeros(len(keep), bool), 0
    if data.split.validation_ids is not None:  # like a validation file, these rows go through no other stage
        listed, missing = rows_with(read_ids(data.split.validation_ids), rows.ids, rows.good)
        keep &= ~listed

    def drop(mask: np.ndarray, reason: str) -> None:
        if count := int((keep & mask).sum()):
            dropped[reason] += count
        keep[mask] = False

    drop(rows.contaminated, "in a benchmark")
    drop(rows.too_long, "too long")
    repeats = _later(rows.pairs, keep)
    if data.duplicates == "drop":
        drop(repeats, "duplicate")
    if data.subsample < 1:
        chosen = np.zeros(len(keep), bool)
        numbers = np.flatnonzero(keep)
        with _stage("data.subsample", data.subsample, _left_out(rows, dropped)):
            chosen[numbers[subsample(len(numbers), data.subsample, seed)]] = True
        drop(~chosen, "not in the subsample")
    held, held_out = _Rows(validation), _Rows(validation).good
    share = data.split.validation or (0.0 if validation or listed.any() else hold_out)
    if listed.any():
        held, held_out = rows, listed
    elif share and keep.any():
        by = data.split.by if data.split.validation else "row"
        left = _left_out(rows, dropped)
        held, held_out = rows, keep & _validated(rows, keep, share, by, data.split.seed, left)
        keep = keep & ~held_out
    _settle_leakage(rows, keep, dropped, held, held_out, data)
    indexes = {"train": rows.index(keep, dropped, rows.rejects)}
    shared = held is rows
    if shared or validation:
        # Rejects of a source of both splits are counted once, for training.
        found = held.index(
            held_out, Counter() if shared else Counter(held.left_out), [] if shared else held.rejects
        )
        indexes["validation"] = replace(found, missing_ids=missing)
    return indexes


class _Rows:
    """All raw rows of several sources, one source after the other."""

    def __init__(self, sources: Sequence[SourceParts]) -> None:
        self.sources = sources
        ranges = [part for source in sources for part in source.ranges]
        self.good = _joined(ranges, "good", bool)
        self.contaminated = _joined(ranges, "contaminated", bool)
        self.too_long = _joined(ranges, "too_long", bool)
        self.with_rationale = _joined(ranges, "with_rationale", bool)
        self.with_entities = _joined(ranges, "with_entities", bool)
        self.ids = _joined(ranges, "ids", np.uint64)
        self.inputs = _joined(ranges, "inputs", np.uint64)
        self.pairs = _joined(ranges, "pairs", np.uint64)
        self.groups = _joined(ranges, "groups", np.uint64)
        self.labels = _joined(ranges, "labels", np.uint64)
        self.types = {name for part in ranges for name in part.types_seen}
        self.left_out = [reason for part in ranges for reason in part.left_out]
        self.rejects = [reject for part in ranges for reject in part.rejects]

    def place(self, row: int) -> str:
        """Return the source of a raw row and its number there, for a message."""
        for source in self.sources:
            count = sum(len(part.good) for part in source.ranges)
            if row < count:
                return f"{source.name} row {row + 1}"
            row -= count
        raise IndexError(row)

    def index(self, keep: np.ndarray, dropped: Counter[str], rejects: list[dict[str, str]]) -> SplitIndex:
        ordinals = _ordinals(self.ids, keep & (self.ids != 0))
        shards: list[ShardSpec] = []
        offset = 0
        for number, source in enumerate(self.sources):
            first = 0
            for part in source.ranges:
                for chunk in part.chunks:
                    begin = offset + chunk.first
                    mask = keep[begin : begin + chunk.raw_rows]
                    if rows := int(mask.sum()):
                        again = ordinals[begin : begin + chunk.raw_rows]
                        shards.append(
                            ShardSpec(
                                index=len(shards),
                                source=number,
                                position=chunk.position,
                                first=first + chunk.first,
                                raw_rows=chunk.raw_rows,
                                rows=rows,
                                kept="" if mask.all() else np.packbits(mask).tobytes().hex(),
                                renamed=tuple((int(row), int(again[row])) for row in np.flatnonzero(again)),
                            )
                        )
                offset += len(part.good)
                first += len(part.good)
        return SplitIndex(
            shards=tuple(shards),
            corpora=tuple(source.corpus for source in self.sources),
            rejects=dict(Counter(reject["reason"] for reject in rejects)),
            dropped=dict(dropped),
            duplicates=int(_later(self.pairs, keep).sum()),
            repeated_ids=int((ordinals > 0).sum()),
            with_rationale=int((self.with_rationale & keep).sum()),
            with_entities=int((self.with_entities & keep).sum()),
            empty_labels=int((self.labels[keep] == 0).sum()),
            one_label=len(np.unique(self.labels[keep])) == 1,
            types=tuple(sorted(self.types)),
            knows_labels=True,
        )


def _joined(ranges: Sequence[RangeIndex], name: str, kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in ranges)])


def _ordinals(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return for each row of `among` the number of earlier rows of `among` with the same value; 0 for other rows."""
    numbers = np.flatnonzero(among)
    order = numbers[np.argsort(values[numbers], kind="stable")]
    fresh = np.ones(len(order), bool)
    fresh[1:] = values[order[1:]] != values[order[:-1]]
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    ordinals = np.zeros(len(values), np.int64)
    ordinals[order] = np.arange(len(order)) - starts
    return ordinals


def _later(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return which rows of `among` have the value of an earlier row of `among`, bool."""
    return _ordinals(values, among) > 0


def _left_out(rows: _Rows, dropped: Counter[str]) -> str:
    """Return a part of a message about rows left out before a stage; "" if there are none."""
    counts = Counter({"bad": int((~rows.good).sum()) - len(rows.left_out)}) + dropped
    said = ", ".join(f"{reason}: {count}" for reason, count in counts.items())
    return f"; rows that were left out before: {said}" if said else ""


@contextmanager
def _stage(key: str, value: object, left_out: str) -> Iterator[None]:
    """Add the key of a stage that fails to its error, and the rows left out before it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error.what}{left_out}", key=key, value=value, fix=error.fix) from None


def _validated(rows: _Rows, keep: np.ndarray, share: float, by: str, seed: int, left_out: str) -> np.ndarray:
    """Return the rows for validation. left_out: from `_left_out`.

    By group, groups are taken in the order of their hashes until their rows are closest to the share; added data then
    changes few assignments.
    """
    chosen = np.zeros(len(keep), bool)
    if by == "row":
        numbers = np.flatnonzero(keep)
        with _stage("data.split.validation", share, left_out):
            chosen[numbers[holdout(len(numbers), share, seed)[1]]] = True
        return chosen
    groups, counts = np.unique(rows.groups[keep], return_counts=True)
    if len(groups) < 2:
        raise InputError(
            f"a validation split by group needs at least 2 groups, but the {int(keep.sum())} training rows have "
            f"{len(groups)}{left_out}",
            key="data.split.by",
            value=by,
            fix="set data.split.by: row, or set data.validation to a file",
        )
    order = np.argsort(_mixed(groups, seed), kind="stable")
    rows_taken = np.cumsum(counts[order])[:-1]
    taken = int(np.abs(rows_taken - share * keep.sum()).argmin()) + 1
    return keep & np.isin(rows.groups, groups[order[:taken]])


def _mixed(values: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each hash and seed (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64


def _settle_leakage(
    rows: _Rows,
    keep: np.ndarray,
    dropped: Counter[str],
    held: _Rows,
    held_out: np.ndarray,
    data: DataConfig,
) -> None:
    """Remove leaked rows from `keep`, or raise InputError with their positions. The validation split is not changed."""
    leaked = keep & (
        np.isin(rows.inputs, held.inputs[held_out]) | np.isin(rows.groups, held.groups[held_out])
    )
    count = int(leaked.sum())
    if not count or data.leakage == "allow":
        return
    if data.leakage == "drop":
        keep[leaked] = False
        dropped["in validation too"] = count
        return
    places = ", ".join(rows.place(int(row)) for row in np.flatnonzero(leaked)[:_SHOWN])
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    raise InputError(
        f"{count} training rows have an input or a group that is also in validation ({places}{more}), so "
        "validation metrics would not measure unseen text",
        key="data.leakage",
        value="error",
        fix="set data.leakage: drop, which removes these rows from training",
    )
