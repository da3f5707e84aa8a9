"""The order of rows: shards are shuffled, then rows inside windows of several shards. It is pure arithmetic.

Shards are shuffled by (seed, pass) and grouped into windows of `window_shards`; rows are shuffled inside a window by
(seed, pass, window). The concatenated windows are the order of one pass over the data. Any row of any pass is found
from the row counts alone: earlier rows are not visited, and the order does not depend on the number of workers or on
which shards are already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

# The purpose of a random draw, as a word of its seed. Missing words count as 0, so purposes start at 1.
PACKING, BUCKETS, CORPUS_SHARDS, CORPUS_ROWS = 1, 2, 3, 4

# An encoder-decoder pads two arrays per row. In a group of rows with about the same total, ordering by the source also orders
# the targets; a longer group would mix totals, a shorter one would leave sources unordered.
RUN_ROWS = 64


class RowOrder(Protocol):
    """The interface of an endless order of rows in epochs of `length` rows: row p of epoch e has position e *
    length + p.
    """

    @property
    def length(self) -> int: ...

    def starts(self, epoch: int) -> np.ndarray:
        """Return the first row of each window of an epoch, followed by `length`; int64 [windows + 1]."""

    def take(self, first: int, last: int) -> np.ndarray:
        """Return the (shard, row) pairs at the positions `first` to `last`, int64 [last - first, 2]."""

    def shards(self, first: int, last: int) -> list[int]:
        """Return the shards that the positions `first` to `last` may need, each once, in the order in which they are
        needed.
        """

    def shard_order(self) -> np.ndarray:
        """Return all shards in the order in which a run that starts at position 0 needs them."""


class Stream:
    """The order of the rows of some shards: one pass after another, each row once per pass. Runs without weights use it.

    corpus: number of the corpus if several streams are mixed, so that each is shuffled differently.
    """

    def __init__(
        self,
        shards: Sequence[int],
        rows: Sequence[int],
        seed: int,
        window_shards: int,
        corpus: int | None = None,
    ) -> None:
        self._shards, self._rows = np.asarray(shards, np.int64), np.asarray(rows, np.int64)
        self._seed, self._window_shards, self._corpus = seed, window_shards, corpus
        self.length = int(self._rows.sum())
        self._pass = lru_cache(maxsize=4)(self._shuffle_shards)
        self._window = lru_cache(maxsize=4)(self._shuffle_rows)

    def starts(self, epoch: int) -> np.ndarray:
        return self._pass(epoch)[1]

    def shard_order(self) -> np.ndarray:
        order: np.ndarray = self._shards[self._pass(0)[0]]
        return order

    def windows(self) -> list[tuple[int, list[int]]]:
        """Return (first position, shards) of each window of the first pass."""
        shards = self.shard_order()
        firsts = range(0, len(shards), self._window_shards)
        starts = np.concatenate([[0], np.cumsum(self._rows[self._pass(0)[0]])])
        return [(int(starts[at]), shards[at : at + self._window_shards].tolist()) for at in firsts]

    def take(self, first: int, last: int) -> np.ndarray:
        pieces = []
        for epoch, window, begin, end in self._parts(first, last):
            pieces.append(self._window(epoch, window)[begin:end])
        return np.concatenate(pieces) if pieces else np.empty((0, 2), np.int64)

    def shards(self, first: int, last: int) -> list[int]:
        found: dict[int, None] = {}
        for epoch, window, _, _ in self._parts(first, last):
            found.update(dict.fromkeys(self._shards[self._members(epoch, window)].tolist()))
        return list(found)

    def _parts(self, first: int, last: int) -> list[tuple[int, int, int, int]]:
        """Return the positions first to last as (pass, window, begin, end), where begin and end count from the window's start."""
        parts = []
        while first < last:
            epoch, place = divmod(first, self.length)
            starts = self.starts(epoch)
            window = int(np.searchsorted(starts, place, side="right")) - 1
            begin, end = int(starts[window]), min(int(starts[window + 1]), last - epoch * self.length)
            parts.append((epoch, window, place - begin, end - begin))
            first = epoch * self.length + end
        return parts

    def _members(self, epoch: int, window: int) -> np.ndarray:
        first = window * self._window_shards
        return self._pass(epoch)[0][first : first + self._window_shards]

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (order of the shards, starts of the windows) for a pass."""
        order = self._draw(CORPUS_SHARDS, epoch).permutation(len(self._shards))
        ends = np.cumsum(self._rows[order])[self._window_shards - 1 :: self._window_shards]
        if not len(ends) or ends[-1] != self.length:
            ends = np.append(ends, self.length)
        return order, np.concatenate([[0], ends])

    def _shuffle_rows(self, epoch: int, window: int) -> np.ndarray:
        members = self._members(epoch, window)
        counts = self._rows[members]
        rows = np.concatenate([np.arange(count) for count in counts.tolist()])
        pairs = np.stack([np.repeat(self._shards[members], counts), rows], 1)
        return self._draw(CORPUS_ROWS, epoch, window).permutation(pairs)

    def _draw(self, purpose: int, epoch: int, *window: int) -> np.random.Generator:
        if self._corpus is None:
            return generator(self._seed, epoch, *window)
        return generator(self._seed, epoch, *(window or (0,)), purpose, self._corpus + 1)


def generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def rank_slots(slots: int, world_size: int, micro_batch_size: int, rank: int) -> list[range]:
    """Return the slots of the global batch that `rank` computes, as one range per micro-batch.

    A slot is a position in the global batch for one sequence: slots = world_size x micro_batch_size x accumulation
    steps. In one accumulation step, the ranks together compute consecutive slots.
    """
    turn = world_size * micro_batch_size
    return [
        range(start + rank * micro_batch_size, start + (rank + 1) * micro_batch_size)
        for start in range(0, slots, turn)
    ]


def by_length(totals: np.ndarray, sources: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of rows sorted by length, the longest first; int64 [rows]. Rows of equal length keep their order.

    totals: tokens of each row. sources: tokens that an encoder reads, for encoder-decoders; within groups of
    RUN_ROWS rows, rows are then sorted by these instead.
    """
    order = np.argsort(-np.asarray(totals, np.int64), kind="stable")
    if sources is None:
        return order
    runs = np.arange(len(order)) // RUN_ROWS
    return order[np.lexsort((-np.asarray(sources, np.int64)[order], runs))]
