"""The batch plan: which rows make up optimizer step s. Pure arithmetic, the same on every rank and machine.

Shards are shuffled by (seed, epoch) and cut into windows of `window_shards`; rows are shuffled inside a window by
(seed, epoch, window). The concatenation of the windows is the order of the epoch; batch b of it is rows b·B to
(b+1)·B, and the last one is filled up with weightless rows. Step s is found from the row counts alone, without
walking the steps before it, and depends neither on the number of workers nor on which shards have been written yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WEIGHTLESS = -1


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step: arrays of B shard numbers and of B rows in them, WEIGHTLESS where none."""

    epoch: int
    shards: np.ndarray
    rows: np.ndarray

    @property
    def real(self) -> int:
        """Rows that are not weightless."""
        return int((self.shards != WEIGHTLESS).sum())


@dataclass(frozen=True)
class Order:
    """The plan over shards of `shard_rows` rows each."""

    shard_rows: tuple[int, ...]
    seed: int
    global_batch_size: int
    window_shards: int

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.global_batch_size)

    def shard_order(self, epoch: int) -> np.ndarray:
        """All shard numbers in the order in which `epoch` reads them; encoding follows that of epoch 0."""
        return _generator(self.seed, epoch).permutation(len(self.shard_rows))

    def batch(self, step: int) -> Batch:
        """The rows of 0-based optimizer step `step`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.global_batch_size
        last = min(first + self.global_batch_size, self.rows)
        starts = _window_starts(self, epoch)
        pieces = []
        window = int(np.searchsorted(starts, first, side="right")) - 1
        while window < len(starts) - 1 and starts[window] < last:
            pairs = _window_rows(self, epoch, window)
            begin = starts[window]
            pieces.append(pairs[max(first - begin, 0) : last - begin])
            window += 1
        pairs = np.concatenate(pieces)
        padding = np.full((self.global_batch_size - len(pairs), 2), WEIGHTLESS, np.int64)
        pairs = np.concatenate([pairs, padding])
        return Batch(epoch, pairs[:, 0], pairs[:, 1])


def rank_slots(slots: int, world_size: int, micro_batch_size: int, rank: int) -> list[range]:
    """Slots of the global batch that `rank` computes, one range a micro-batch.

    slots = world_size x micro_batch_size x accumulation steps. In an accumulation step all ranks compute neighbouring
    slots.
    """
    turn = world_size * micro_batch_size
    return [
        range(start + rank * micro_batch_size, start + (rank + 1) * micro_batch_size)
        for start in range(0, slots, turn)
    ]


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=8)
def _window_starts(order: Order, epoch: int) -> np.ndarray:
    """First row, in the epoch's order, of each window; the last entry is the number of rows."""
    counts = np.asarray(order.shard_rows, np.int64)[order.shard_order(epoch)]
    ends = np.cumsum(counts)[order.window_shards - 1 :: order.window_shards]
    if not len(ends) or ends[-1] != order.rows:
        ends = np.append(ends, order.rows)
    return np.concatenate([[0], ends])


@lru_cache(maxsize=8)
def _window_rows(order: Order, epoch: int, window: int) -> np.ndarray:
    """(shard, row) pairs of a window in their order, [rows of the window, 2]."""
    first = window * order.window_shards
    shards = order.shard_order(epoch)[first : first + order.window_shards]
    pairs = np.concatenate(
        [
            np.stack([np.full(order.shard_rows[shard], shard), np.arange(order.shard_rows[shard])], 1)
            for shard in shards
        ]
    )
    return _generator(order.seed, epoch, window).permutation(pairs)
