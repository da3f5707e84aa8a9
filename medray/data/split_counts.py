"""Lengths of every row of a finished split, read from the counts beside the ids: no id is touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medray import storage
from medray.data.shards import shard_path, shard_table
from medray.data.tokens import TokenSet

_NAMES = ("length", "loss_tokens", "cut")


@dataclass(frozen=True)
class SplitCounts:
    """Counts of all rows, shard by shard in the order of their numbers; arrays are [tasks, rows].

    length: tokens that a forward computes, 0 where a row lacks the task; for an encoder-decoder source and target.
    loss: tokens that carry loss. cut: bool. starts: first row of each shard, by its number.
    """

    tasks: tuple[str, ...]
    length: np.ndarray
    loss: np.ndarray
    cut: np.ndarray
    starts: np.ndarray

    @property
    def rows(self) -> int:
        return self.length.shape[1]

    def places(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Columns of the rows that (shard, row) pairs name."""
        return np.asarray(self.starts[shards] + rows)


def split_counts(tokens: TokenSet) -> SplitCounts:
    """The counts of a split whose shards are all written."""
    tasks, shards = tokens.spec.tasks, tokens.index.shards
    columns = [f"{task}.{name}" for name in _NAMES for task in tasks]
    parts: dict[str, list[np.ndarray]] = {column: [np.empty(0, np.int32)] for column in columns}
    starts = np.zeros(max((shard.index for shard in shards), default=-1) + 1, np.int64)
    first = 0
    for shard in shards:
        table = shard_table(shard_path(storage.at(tokens.folder), shard.index), columns)
        for column in columns:
            parts[column].append(table.column(column).to_numpy())
        starts[shard.index], first = first, first + shard.rows
    length, loss, cut = (
        np.stack([np.concatenate(parts[f"{task}.{name}"]) for task in tasks]) for name in _NAMES
    )
    return SplitCounts(tasks, length, loss, cut.astype(bool), starts)
