"""One optimizer step: the plan's rows through the method's tasks into the engine. Knows neither Ray nor tracking."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medray.config.train import TrainConfig
from medray.data.alike import by_length
from medray.data.batch_plan import Batch, BatchPlan
from medray.data.batches import MicroBatch, PackedMicroBatch, collate, collate_packed
from medray.data.order import rank_slots
from medray.data.shards import ShardStore
from medray.errors import InputError
from medray.methods.loss import Method, token_loss_sum
from medray.models.adalora import orthogonal_penalty
from medray.models.forward import loss_logits, packed_logits
from medray.plan.steps import MOST_ROWS, split_batch
from medray.train.engine import Engine


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch lies on ranks.

    A slot holds one sequence: a row, or a packed one. slots = world_size x micro_batch_size x accumulation, at least
    the sequences of any batch; None: of each step its sequences, rounded up to whole micro-batches on all ranks.
    """

    micro_batch_size: int
    slots: int | None

    def slots_of(self, sequences: int, world_size: int) -> int:
        """Slots of a step with so many sequences. Raises ValueError where they do not fit: none may be lost."""
        turn = world_size * self.micro_batch_size
        slots = -(-sequences // turn) * turn if self.slots is None else self.slots
        if sequences > slots:
            raise ValueError(f"{sequences} sequences do not fit into {slots} slots")
        return slots


def layout(train: TrainConfig, world_size: int) -> BatchLayout:
    """How a global batch lies on so many workers. Raises InputError where they cannot hold it."""
    if train.global_batch_tokens is not None:  # how many rows a step has, its lengths decide
        return BatchLayout(train.micro_batch_size or MOST_ROWS, None)
    rows, micro, accumulation = (
        train.global_batch_size,
        train.micro_batch_size,
        train.gradient_accumulation_steps,
    )
    try:
        split = split_batch(rows, world_size, micro, accumulation)
    except ValueError as error:
        what, _, mend = str(error).partition(": ")
        raise InputError(what, key="train.global_batch_size", value=rows, mend=mend) from None
    return BatchLayout(split.micro_batch_size, split.slots)


@dataclass(frozen=True)
class Prepared:
    """A step's arrays for one rank, made ahead of time.

    micro: one list of micro-batches an accumulation step, a task each; of packed sequences one with all tasks.
    totals: loss tokens of the global batch, a task each. tokens: of the global batch, padding aside. ids: of the rows
    of the global batch, in order.
    """

    batch: Batch
    micro: Sequence[Sequence[MicroBatch | PackedMicroBatch]]
    totals: dict[str, int]
    tokens: int
    ids: list[str]


@dataclass
class Progress:
    """What a run has done so far; goes into every checkpoint. order: chained SHA-256 of all ids in their order."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    order: str = ""

    def add(self, prepared: Prepared) -> None:
        self.step += 1
        self.samples += prepared.batch.real
        self.tokens += prepared.tokens
        self.loss_tokens += sum(prepared.totals.values())
        for name in prepared.ids:
            self.order = hashlib.sha256((self.order + name).encode()).hexdigest()


class BatchReader:
    """Turns the plan's step into this rank's arrays. Made for one thread."""

    def __init__(
        self,
        store: ShardStore,
        plan: BatchPlan,
        method: Method,
        layout: BatchLayout,
        *,
        rank: int,
        world_size: int,
        architecture: Literal["causal", "seq2seq"],
        pad_id: int,
        packed: bool,
    ) -> None:
        if packed and architecture != "causal":
            raise ValueError("sequences are packed for causal models only")
        self._store, self._plan, self._tasks, self._layout = store, plan, method.tasks, layout
        self._rank, self._world_size = rank, world_size
        self._architecture, self._pad_id, self._packed = architecture, pad_id, packed
        self._upcoming: tuple[int, ...] | None = None
        self._known: dict[int, np.ndarray] = {}  # counts of the shards of the last batches

    def prepare(self, step: int) -> Prepared:
        """Waits for the shards of the step's rows."""
        self._look_ahead(step)
        batch = self._plan.batch(step)
        lengths, loss_tokens = self._counts(batch)
        # Within a global batch sequences of alike length are computed together, on all ranks at once: little is
        # padded and no rank waits long. The loss is a sum, so places do not change it.
        starts = np.concatenate([[0], batch.ends[:-1]])
        sizes = np.add.reduceat(lengths.sum(axis=0) if self._packed else lengths[0], starts)
        placed = by_length(sizes, lengths[0] - loss_tokens[0] if self._architecture == "seq2seq" else None)
        slots = self._layout.slots_of(batch.sequences, self._world_size)
        spans = list(zip(starts.tolist(), batch.ends.tolist(), strict=True))
        pairs = list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))
        micro: list[Sequence[MicroBatch | PackedMicroBatch]] = []
        for mine in rank_slots(slots, self._world_size, self._layout.micro_batch_size, self._rank):
            chosen = [slice(*spans[place]) for place in placed[mine.start : mine.stop].tolist()]
            sequences = [pairs[span] for span in chosen] + [[]] * (len(mine) - len(chosen))
            micro.append([self._pack(sequences)] if self._packed else self._rows(sequences))
        return Prepared(
            batch=batch,
            micro=micro,
            totals=dict(zip(self._tasks, loss_tokens.sum(axis=1).tolist(), strict=True)),
            tokens=int(lengths.sum()),
            ids=[str(self._store.text(shard, row, "id")) for shard, row in pairs],
        )

    def _look_ahead(self, step: int) -> None:
        upcoming = self._plan.upcoming(step)
        if upcoming != self._upcoming:
            self._upcoming = upcoming
            self._known = {shard: counts for shard, counts in self._known.items() if shard in upcoming}
            self._store.prefetch(upcoming)

    def _counts(self, batch: Batch) -> np.ndarray:
        """Lengths and loss tokens of the batch's rows, [2, tasks, rows]."""
        counts = np.empty((2, len(self._tasks), len(batch.rows)), np.int64)
        for shard in np.unique(batch.shards).tolist():
            here = np.flatnonzero(batch.shards == shard)
            counts[:, :, here] = self._shard(shard)[:, :, batch.rows[here]]
        return counts

    def _shard(self, shard: int) -> np.ndarray:
        """The same of every row of a shard."""
        if shard not in self._known:
            self._store.wait(shard)
            self._known[shard] = np.array(
                [
                    [self._store.counts(shard, task, name) for task in self._tasks]
                    for name in ("length", "loss_tokens")
                ]
            )
        return self._known[shard]

    def _rows(self, sequences: Sequence[list[tuple[int, int]]]) -> list[MicroBatch]:
        """A micro-batch a task, of one row a sequence or none."""
        return [
            collate(
                task,
                [self._store.example(*rows[0], task) if rows else None for rows in sequences],
                self._architecture,
                self._pad_id,
            )
            for task in self._tasks
        ]

    def _pack(self, sequences: Sequence[list[tuple[int, int]]]) -> PackedMicroBatch:
        """All tasks of all rows of the sequences: of each row its tasks, one segment after another."""
        return collate_packed(
            [
                [
                    (place, *self._store.example(*row, task))
                    for row in rows
                    for place, task in enumerate(self._tasks)
                ]
                for rows in sequences
            ],
            self._pad_id,
        )


def train_step(
    engine: Engine, prepared: Prepared, method: Method, *, lr: float, seed: int, step: int, seq2seq: bool
) -> dict[str, Any]:
    """Runs 0-based `step` and returns its record: losses of the whole global batch, equal on all ranks.

    computed_tokens counts the places that were computed, padding and weightless rows too.
    """
    began = time.perf_counter()
    engine.model.train()
    sums = torch.zeros(len(method.tasks), dtype=torch.float64, device=engine.device)
    computed = 0
    for number, parts in enumerate(prepared.micro):
        for place, micro in enumerate(parts):
            # Dropout depends on (seed, step, slot, rank) alone: a resumed run needs no generator state.
            torch.manual_seed(_mix(seed, step, number * len(parts) + place, engine.rank))
            losses = _loss_sums(engine, micro, method.tasks, seq2seq=seq2seq)
            shares = [method.contribution(task, loss, prepared.totals[task]) for task, loss in losses.items()]
            if number == place == 0 and (penalty := orthogonal_penalty(engine.model)) is not None:
                shares.append(penalty / engine.world_size)  # once a step, whatever the layout
            engine.backward(torch.stack(shares).sum())
            for task, loss in losses.items():
                sums[method.tasks.index(task)] += loss.detach()
            computed += micro.input_ids.size + (micro.labels.size if seq2seq else 0)
    grad_norm = engine.step(lr)
    summed = engine.sum(torch.cat([sums, sums.new_tensor([computed])]))
    *totals, places = summed.tolist()
    by_task = dict(zip(method.tasks, totals, strict=True))
    means = {task: by_task[task] / prepared.totals[task] for task in method.tasks if prepared.totals[task]}
    return {
        "step": step + 1,
        "loss": method.loss(by_task, prepared.totals),
        **{f"loss/{task}": mean for task, mean in means.items()},
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens": prepared.tokens,
        "loss_tokens": sum(prepared.totals.values()),
        "computed_tokens": int(places),
        "seconds": time.perf_counter() - began,
    }


def _loss_sums(
    engine: Engine, micro: MicroBatch | PackedMicroBatch, tasks: Sequence[str], *, seq2seq: bool
) -> dict[str, Tensor]:
    """Sums of the token cross-entropy of one forward, for each task that it holds."""

    def tensors(*arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(array).to(engine.device) for array in arrays]

    if isinstance(micro, MicroBatch):
        found = loss_logits(
            engine.model,
            *tensors(micro.input_ids, micro.attention_mask, micro.labels),
            seq2seq=seq2seq,
            task=micro.task,
        )
        return {micro.task: token_loss_sum(*found)}
    logits, labels, places = packed_logits(
        engine.model, *tensors(micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
    )
    sizes = torch.bincount(places, minlength=len(tasks)).tolist()
    return {
        task: token_loss_sum(part, wanted)
        for task, part, wanted in zip(tasks, logits.split(sizes), labels.split(sizes), strict=True)
        if len(wanted)
    }


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
