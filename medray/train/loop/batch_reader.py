"""The reader of batches: it turns the batch plan into arrays, the micro-batches that a rank computes in a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medray.config.train import TrainConfig
from medray.data.batching.batch_plan import Batch, BatchPlan
from medray.data.batching.collate import (
    Example,
    MixedMicroBatch,
    PackedMicroBatch,
    collate,
    collate_mixed,
    collate_packed,
)
from medray.data.batching.order import by_length, rank_slots
from medray.data.shards.row_values import RowValues
from medray.data.shards.shard_file import ShardStore
from medray.evaluate.loss_sums import AnyMicroBatch
from medray.methods import MethodLoss
from medray.plan.steps import MOST_ROWS, split_batch


@dataclass(frozen=True)
class BatchLayout:
    """The layout of a global batch across ranks.

    A slot holds one sequence: a row, or a packed sequence. slots = world_size x micro_batch_size x accumulation, which
    is at least the number of sequences of any batch. None: each step has as many slots as sequences, rounded up to whole
    micro-batches on all ranks.
    """

    micro_batch_size: int
    slots: int | None

    def slots_of(self, sequences: int, world_size: int) -> int:
        """Return the slots of a step with `sequences` sequences. Raises ValueError if they do not fit: none may be lost."""
        turn = world_size * self.micro_batch_size
        slots = -(-sequences // turn) * turn if self.slots is None else self.slots
        if sequences > slots:
            raise ValueError(f"{sequences} sequences do not fit into {slots} slots")
        return slots


def batch_layout(train: TrainConfig, world_size: int) -> BatchLayout:
    """Return the layout of a global batch across `world_size` workers. Raises InputError if they cannot hold it."""
    if train.global_batch_tokens is not None:  # row lengths decide how many rows a step has
        return BatchLayout(train.micro_batch_size or MOST_ROWS, None)
    rows, micro, accumulation = (
        train.global_batch_size,
        train.micro_batch_size,
        train.gradient_accumulation_steps,
    )
    split = split_batch(rows, world_size, micro, accumulation)
    return BatchLayout(split.micro_batch_size, split.slots)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The arrays of a step for one rank, prepared ahead of time.

    micro: one list per accumulation step, with one micro-batch per group of tasks (only one for packed sequences, which
    hold all tasks); after them one list per micro-batch of mixed tasks. loss_tokens: count of each task in the global
    batch. denominators: one per term of the loss. tokens: count of the global batch, without padding. ids: ids of the
    rows of the global batch, in order. micro_batches: number of micro-batches of all ranks that hold a row.
    """

    batch: Batch
    micro: Sequence[Sequence[AnyMicroBatch]]
    loss_tokens: dict[str, int]
    denominators: dict[str, int]
    tokens: int
    ids: list[str]
    micro_batches: int


class BatchReader:
    """A reader that turns steps of the plan into arrays of one rank. It is not thread-safe.

    reference: stored log-probabilities that the frozen reference model gives the rows, for a method that needs them.
    """

    def __init__(
        self,
        store: ShardStore,
        plan: BatchPlan,
        method: MethodLoss,
        batch_layout: BatchLayout,
        *,
        rank: int,
        world_size: int,
        architecture: Literal["causal", "seq2seq"],
        pad_id: int,
        packed: bool,
        reference: RowValues | None = None,
    ) -> None:
        if packed and architecture != "causal":
            raise ValueError("sequences are packed for causal models only")
        if method.spec.encodings is not None and architecture == "causal":
            raise ValueError(f"method {method.spec.name} compares encodings and needs an encoder")
        self._store, self._plan, self._method, self._layout = store, plan, method, batch_layout
        self._tasks = method.tasks
        self._mixed = () if packed else method.spec.mixed_tasks
        self._rank, self._world_size = rank, world_size
        self._architecture, self._pad_id, self._packed = architecture, pad_id, packed
        self._reference = reference
        self._upcoming: tuple[int, ...] | None = None
        self._known: dict[int, np.ndarray] = {}  # counts of the shards of the last batches

    def prepare(self, step: int) -> Prepared:
        """Return this rank's arrays of a step. Waits for the shards of the step's rows."""
        self._look_ahead(step)
        batch = self._plan.batch(step)
        lengths, loss_tokens = self._counts(batch)
        # Within a global batch, sequences of similar length are computed together, on all ranks at once: little is
        # padded and no rank waits long. The loss is a sum, so the order of the sequences does not change it.
        starts = np.concatenate([[0], batch.ends[:-1]])
        sizes = np.add.reduceat(lengths.sum(axis=0) if self._packed else lengths[0], starts)
        placed = by_length(sizes, lengths[0] - loss_tokens[0] if self._architecture == "seq2seq" else None)
        slots = self._layout.slots_of(batch.sequences, self._world_size)
        spans = list(zip(starts.tolist(), batch.ends.tolist(), strict=True))
        pairs = list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))
        micro: list[Sequence[AnyMicroBatch]] = []
        for mine in rank_slots(slots, self._world_size, self._layout.micro_batch_size, self._rank):
            chosen = [slice(*spans[place]) for place in placed[mine.start : mine.stop].tolist()]
            sequences = [pairs[span] for span in chosen] + [[]] * (len(mine) - len(chosen))
            micro.append(self._forwards(sequences))
        micro += [[mixed] for mixed in self._mixed_texts(pairs, lengths, loss_tokens)]
        return Prepared(
            batch=batch,
            micro=micro,
            loss_tokens=dict(zip(self._tasks, loss_tokens.sum(axis=1).tolist(), strict=True)),
            denominators=self._method.denominators(loss_tokens),
            tokens=int(lengths.sum()),
            micro_batches=-(-batch.sequences // self._layout.micro_batch_size),
            ids=[str(self._store.text(shard, row, "id")) for shard, row in pairs],
        )

    def _look_ahead(self, step: int) -> None:
        upcoming = self._plan.upcoming(step)
        if upcoming != self._upcoming:
            self._upcoming = upcoming
            self._known = {shard: counts for shard, counts in self._known.items() if shard in upcoming}
            self._store.prefetch(upcoming)

    def _counts(self, batch: Batch) -> np.ndarray:
        """Return lengths and loss tokens of the batch's rows, [2, tasks, rows]."""
        counts = np.empty((2, len(self._tasks), len(batch.rows)), np.int64)
        for shard in np.unique(batch.shards).tolist():
            here = np.flatnonzero(batch.shards == shard)
            counts[:, :, here] = self._shard(shard)[:, :, batch.rows[here]]
        return counts

    def _shard(self, shard: int) -> np.ndarray:
        """Return lengths and loss tokens of all rows of a shard, [2, tasks, rows]."""
        if shard not in self._known:
            self._store.wait(shard)
            self._known[shard] = np.array(
                [
                    [self._store.counts(shard, task, name) for task in self._tasks]
                    for name in ("length", "loss_tokens")
                ]
            )
        return self._known[shard]

    def _forwards(self, sequences: Sequence[list[tuple[int, int]]]) -> list[AnyMicroBatch]:
        """Return the micro-batches of the sequences, without those of mixed tasks.

        Without packing, a sequence is one row or none.
        """
        if self._packed:
            return [self._pack(sequences)]
        return [self._of_group(tasks, sequences) for tasks in self._method.spec.row_groups]

    def _of_group(self, tasks: Sequence[str], sequences: Sequence[list[tuple[int, int]]]) -> AnyMicroBatch:
        """Return the micro-batch of all tasks of a group for the same rows, one task after the other."""
        examples = [
            [self._store.example(*rows[0], task) if rows else None for rows in sequences] for task in tasks
        ]
        if len(tasks) == 1:
            return collate(tasks[0], examples[0], self._architecture, self._pad_id)
        mixed = [
            (self._tasks.index(task), example)
            for task, found in zip(tasks, examples, strict=True)
            for example in found
        ]
        return replace(
            collate_mixed(mixed, self._architecture, self._pad_id),
            reference=self._reference_of([rows[0] if rows else None for rows in sequences]),
        )

    def _reference_of(self, rows: Sequence[tuple[int, int] | None]) -> np.ndarray | None:
        return None if self._reference is None else self._reference.of_rows(rows)

    def _mixed_texts(
        self, pairs: Sequence[tuple[int, int]], lengths: np.ndarray, loss_tokens: np.ndarray
    ) -> Iterator[MixedMicroBatch]:
        """Yield this rank's micro-batches of the mixed tasks, all of these tasks together.

        Most rows have few of the texts of these tasks, and a text that a row lacks is not computed. All ranks have the
        same number of micro-batches. pairs: (shard, row) of the rows of the global batch. lengths, loss_tokens: counts
        of these rows, [tasks, rows].
        """
        if not self._mixed:
            return
        numbers = [self._tasks.index(task) for task in self._mixed]
        rows, places = np.nonzero(loss_tokens[numbers].T)
        tasks = np.array(numbers, np.int64)[places]
        sizes = lengths[tasks, rows]
        sources = sizes - loss_tokens[tasks, rows] if self._architecture == "seq2seq" else None
        order = by_length(sizes, sources)
        turn = self._world_size * self._layout.micro_batch_size
        slots = -(-max(len(order), 1) // turn) * turn  # without any forward, a step would have no gradient
        for mine in rank_slots(slots, self._world_size, self._layout.micro_batch_size, self._rank):
            chosen = order[mine.start : mine.stop]
            chosen = chosen[np.argsort(tasks[chosen], kind="stable")]
            mixed: list[tuple[int, Example | None]] = [
                (int(tasks[at]), self._store.example(*pairs[int(rows[at])], self._tasks[int(tasks[at])]))
                for at in chosen
            ]
            yield collate_mixed(
                mixed + [(numbers[-1], None)] * (len(mine) - len(mixed)),
                self._architecture,
                self._pad_id,
            )

    def _pack(self, sequences: Sequence[list[tuple[int, int]]]) -> PackedMicroBatch:
        """Return all tasks of all rows of the sequences: each task of a row is a segment, one after the other."""
        segments, numbers, number = [], [], 0
        for rows in sequences:
            segments.append(
                [
                    (place, *self._store.example(*row, task))
                    for row in rows
                    for place, task in enumerate(self._tasks)
                ]
            )
            numbers.append([number + at for at in range(len(rows)) for _ in self._tasks])
            number += len(rows)
        return replace(
            collate_packed(segments, self._pad_id, numbers),
            reference=self._reference_of([row for rows in sequences for row in rows] or [None]),
        )
