"""Rows of tokens in memory, instead of token shards and of the plan over them: for tests that need no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

IGNORED = -100
Row = Mapping[str, tuple[np.ndarray, np.ndarray]]  # of each task (input_ids, labels), int32


def rows(
    count: int,
    *,
    tasks: Sequence[str] = ("label", "rationale"),
    vocabulary: int = 96,
    longest: int = 30,
    seed: int = 0,
    seq2seq: bool = False,
) -> list[Row]:
    """Rows of very uneven length with a prompt and a target a task; every fifth lacks all tasks but the first."""
    made: list[Row] = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        row: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for place, task in enumerate(tasks):
            if place and number % 5 == 4:
                row[task] = (np.empty(0, np.int32), np.empty(0, np.int32))
                continue
            prompt = rng.integers(3, vocabulary, rng.integers(1, longest)).astype(np.int32)
            target = rng.integers(3, vocabulary, rng.integers(1, longest // 2)).astype(np.int32)
            if seq2seq:
                row[task] = (prompt, target)
            else:
                masked = np.full(len(prompt), IGNORED, np.int32)
                row[task] = (np.concatenate([prompt, target]), np.concatenate([masked, target]))
        made.append(row)
    return made


class MemoryStore:
    """A ShardStore for BatchReader, with shards of `shard_rows` rows. It remembers what was requested ahead."""

    def __init__(self, made: Sequence[Row], shard_rows: int = 4, *, seq2seq: bool = False) -> None:
        self.rows, self._shard_rows, self._seq2seq = made, shard_rows, seq2seq
        self.prefetched: list[tuple[int, ...]] = []
        self.waited: list[int] = []

    def place(self, number: int) -> tuple[int, int]:
        """Return (shard, row) of a row."""
        return divmod(number, self._shard_rows)

    def example(self, shard: int, row: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        return self._row(shard, row)[task]

    def prompt(self, shard: int, row: int, task: str = "label") -> np.ndarray:
        ids, labels = self._row(shard, row)[task]
        return ids if self._seq2seq else ids[labels == IGNORED]

    def counts(self, shard: int, task: str, name: str) -> np.ndarray:
        first = shard * self._shard_rows
        pairs = [row[task] for row in self.rows[first : first + self._shard_rows]]
        if name == "length":
            found = [len(ids) + (len(labels) if self._seq2seq else 0) for ids, labels in pairs]
        else:
            found = [int((labels[0 if self._seq2seq else 1 :] != IGNORED).sum()) for _, labels in pairs]
        return np.array(found, np.int32)

    def text(self, shard: int, row: int, name: str) -> str | None:
        return f"row-{shard * self._shard_rows + row}" if name == "id" else None

    def prefetch(self, shards: tuple[int, ...]) -> None:
        self.prefetched.append(shards)

    def wait(self, shard: int) -> None:
        self.waited.append(shard)

    def _row(self, shard: int, row: int) -> Row:
        return self.rows[shard * self._shard_rows + row]


@dataclass(frozen=True)
class PlannedBatch:
    """Rows of one step; `ends` closes each sequence."""

    epoch: int
    shards: np.ndarray
    rows: np.ndarray
    ends: np.ndarray

    @property
    def real(self) -> int:
        return len(self.rows)

    @property
    def sequences(self) -> int:
        return len(self.ends)


@dataclass(frozen=True)
class ListedPlan:
    """The steps as lists of sequences of row numbers."""

    store: MemoryStore
    steps: Sequence[Sequence[Sequence[int]]]
    ahead: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def batch(self, step: int) -> PlannedBatch:
        numbers = [number for sequence in self.steps[step] for number in sequence]
        pairs = np.array([self.store.place(number) for number in numbers]).reshape(-1, 2)
        ends = np.cumsum([len(sequence) for sequence in self.steps[step]])
        return PlannedBatch(0, pairs[:, 0], pairs[:, 1], ends)

    def upcoming(self, step: int) -> tuple[int, ...]:
        return self.ahead.get(step, tuple(sorted(set(self.batch(step).shards.tolist()))))


def packed(made: Sequence[Row], numbers: Sequence[int], tokens: int) -> list[list[int]]:
    """Pack rows first-fit into sequences of at most this many tokens; a longer row is alone."""
    bins: list[list[int]] = []
    room: list[int] = []
    for number in numbers:
        size = sum(len(ids) for ids, _ in made[number].values())
        place = next((place for place, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([])
            room.append(tokens)
            place = len(bins) - 1
        bins[place].append(number)
        room[place] -= size
    return bins
