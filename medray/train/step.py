"""One optimizer step: the plan's rows through the method's tasks into the engine. Knows neither Ray nor tracking."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from medray.config.train import TrainConfig
from medray.data.batching.batch_plan import Batch, BatchPlan
from medray.data.batching.collate import (
    Example,
    MicroBatch,
    MixedMicroBatch,
    PackedMicroBatch,
    collate,
    collate_mixed,
    collate_packed,
)
from medray.data.batching.order import by_length, rank_slots
from medray.data.shards.shard_file import ShardStore
from medray.errors import RunFailedError
from medray.evaluate.loss_sums import PLAIN, AnyMicroBatch, loss_sums
from medray.methods.chunked_loss import TokenLoss
from medray.methods.loss import COSINE, IGNORED, Method
from medray.models.adapters.adalora import orthogonal_penalty
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


def batch_layout(train: TrainConfig, world_size: int) -> BatchLayout:
    """How a global batch lies on so many workers. Raises InputError where they cannot hold it."""
    if train.global_batch_tokens is not None:  # how many rows a step has, its lengths decide
        return BatchLayout(train.micro_batch_size or MOST_ROWS, None)
    rows, micro, accumulation = (
        train.global_batch_size,
        train.micro_batch_size,
        train.gradient_accumulation_steps,
    )
    split = split_batch(rows, world_size, micro, accumulation)
    return BatchLayout(split.micro_batch_size, split.slots)


@dataclass(frozen=True)
class Prepared:
    """A step's arrays for one rank, made ahead of time.

    micro: one list of micro-batches an accumulation step, a task each; of packed sequences, and with the cosine term,
    one with all tasks; behind them those of the keys, each of which is alone.
    totals: loss tokens of the global batch, a task each. pairs: its rows that have all tasks. tokens: of the global
    batch, padding aside. ids: of the rows of the global batch, in order. micro_batches: of all ranks, those that hold
    a row.
    """

    batch: Batch
    micro: Sequence[Sequence[AnyMicroBatch]]
    totals: dict[str, int]
    pairs: int
    tokens: int
    ids: list[str]
    micro_batches: int

    @property
    def denominators(self) -> dict[str, int]:
        """Of each term of the loss."""
        return {**self.totals, COSINE: self.pairs}


@dataclass
class Progress:
    """What a run has done so far; goes into every checkpoint. order: chained SHA-256 of all ids in their order.

    evaluated: the last step after which the validation split was evaluated.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    order: str = ""
    evaluated: int = 0

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
        batch_layout: BatchLayout,
        *,
        rank: int,
        world_size: int,
        architecture: Literal["causal", "seq2seq"],
        pad_id: int,
        packed: bool,
    ) -> None:
        if packed and architecture != "causal":
            raise ValueError("sequences are packed for causal models only")
        if method.cosine and architecture == "causal":
            raise ValueError("the cosine term needs an encoder")
        self._store, self._plan, self._tasks, self._layout = store, plan, method.tasks, batch_layout
        self._cosine, self._keys = method.cosine, () if packed else method.keys
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
        micro: list[Sequence[AnyMicroBatch]] = []
        for mine in rank_slots(slots, self._world_size, self._layout.micro_batch_size, self._rank):
            chosen = [slice(*spans[place]) for place in placed[mine.start : mine.stop].tolist()]
            sequences = [pairs[span] for span in chosen] + [[]] * (len(mine) - len(chosen))
            micro.append(self._forwards(sequences))
        micro += [[mixed] for mixed in self._keyed(pairs, lengths, loss_tokens)]
        return Prepared(
            batch=batch,
            micro=micro,
            totals=dict(zip(self._tasks, loss_tokens.sum(axis=1).tolist(), strict=True)),
            pairs=int((loss_tokens > 0).all(axis=0).sum()),
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

    def _forwards(self, sequences: Sequence[list[tuple[int, int]]]) -> list[AnyMicroBatch]:
        """The micro-batches of the sequences, those of the keys aside; without packing a sequence is one row or none."""
        if self._packed:
            return [self._pack(sequences)]
        by_task = [
            (task, [self._store.example(*rows[0], task) if rows else None for rows in sequences])
            for task in self._tasks
            if task not in self._keys
        ]
        if self._cosine:  # both encodings of a row are needed in one term
            mixed = [(place, example) for place, (_, found) in enumerate(by_task) for example in found]
            return [collate_mixed(mixed, self._architecture, self._pad_id)]
        return [collate(task, found, self._architecture, self._pad_id) for task, found in by_task]

    def _keyed(
        self, pairs: Sequence[tuple[int, int]], lengths: np.ndarray, loss_tokens: np.ndarray
    ) -> Iterator[MixedMicroBatch]:
        """This rank's micro-batches of the keys' texts, of all keys together: rows have few of them, and what a row
        lacks is not computed. All ranks have equally many.

        pairs: (shard, row) of the global batch. lengths, loss_tokens: [tasks, rows] of them.
        """
        if not self._keys:
            return
        keys = [self._tasks.index(task) for task in self._keys]
        rows, places = np.nonzero(loss_tokens[keys].T)
        tasks = np.array(keys, np.int64)[places]
        sizes = lengths[tasks, rows]
        sources = sizes - loss_tokens[tasks, rows] if self._architecture == "seq2seq" else None
        order = by_length(sizes, sources)
        turn = self._world_size * self._layout.micro_batch_size
        slots = -(-max(len(order), 1) // turn) * turn  # a step without any forward has no gradient to go by
        for mine in rank_slots(slots, self._world_size, self._layout.micro_batch_size, self._rank):
            chosen = order[mine.start : mine.stop]
            chosen = chosen[np.argsort(tasks[chosen], kind="stable")]
            mixed: list[tuple[int, Example | None]] = [
                (int(tasks[at]), self._store.example(*pairs[int(rows[at])], self._tasks[int(tasks[at])]))
                for at in chosen
            ]
            yield collate_mixed(
                mixed + [(len(self._tasks) - 1, None)] * (len(mine) - len(mixed)),
                self._architecture,
                self._pad_id,
            )

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
    engine: Engine,
    prepared: Prepared,
    method: Method,
    *,
    lr: float,
    seed: int,
    step: int,
    seq2seq: bool,
    loss: TokenLoss = PLAIN,
) -> dict[str, Any]:
    """Runs 0-based `step` and returns its record: losses of the whole global batch, equal on all ranks.

    The loss is what is minimized, smoothed where it is. lr is read back from the optimizer, lr/… that of each group.
    computed_tokens counts the places that were computed, padding and weightless rows too.
    """
    began = time.perf_counter()
    engine.model.train()
    terms, totals = method.terms, prepared.denominators
    factors = method.factors(totals)
    # Of each term; then the loss itself, and the places.
    sums = torch.zeros(len(terms) + 2, dtype=torch.float64, device=engine.device)
    forwards = (micro for parts in prepared.micro for micro in parts)
    for number, micro in enumerate(forwards):
        # Dropout depends on (seed, step, forward, rank) alone: a resumed run needs no generator state.
        torch.manual_seed(_mix(seed, step, number, engine.rank))
        losses = loss_sums(engine.model, micro, method, engine.device, seq2seq=seq2seq, loss=loss)
        if method.norm == "micro_batch":
            factors = _micro_batch_factors(method, micro, prepared.micro_batches)
        share = torch.stack([found * factors[term] for term, found in losses.items()]).sum()
        penalty = (
            orthogonal_penalty(engine.model) if number == 0 else None
        )  # once a step, whatever the layout
        engine.backward(share if penalty is None else share + penalty / engine.world_size)
        for term, found in losses.items():
            sums[terms.index(term)] += found.detach()
        sums[-2] += share.detach()
        sums[-1] += micro.input_ids.size + (micro.labels.size if seq2seq else 0)
    grad_norm = engine.step(lr)
    *summed, shares, places = engine.sum(sums).tolist()
    by_term = dict(zip(terms, summed, strict=True))
    return {
        "step": step + 1,
        "loss": shares if method.norm == "micro_batch" else method.loss(by_term, totals),
        **{f"loss/{name}": mean for name, mean in method.means(by_term, totals).items()},
        **_rates(engine.rates(), lr),
        "grad_norm": grad_norm,
        "tokens": prepared.tokens,
        "loss_tokens": sum(prepared.totals.values()),
        "computed_tokens": int(places),
        "seconds": time.perf_counter() - began,
    }


def check_finite(record: dict[str, Any], *, fp16: bool) -> None:
    """Raises RunFailedError for a loss or gradient that is no number: it is the same on all ranks, so all stop here.

    In fp16 an overflow is part of the loss scaling: that step is skipped, and its norm is not known.
    """
    for name in ("loss", "grad_norm"):
        if math.isfinite(record[name]):
            continue
        if name == "grad_norm" and fp16:
            record[name] = None
            continue
        raise RunFailedError(
            f"the {name} of step {record['step']} is {record[name]}; try a lower "
            "train.optimizer.lr, or train.precision: fp32"
        )


def _rates(in_force: Mapping[str, float], scheduled: float) -> dict[str, float]:
    """lr, and lr/pattern of each group, as a metric's name can be. lr: as scheduled where groups have all parameters."""
    named: dict[str, float] = {}
    for match, rate in in_force.items():
        if match:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", match).strip("_.-")
            named[f"lr/{name}" if name and f"lr/{name}" not in named else f"lr/group_{len(named)}"] = rate
    return {"lr": in_force.get("", scheduled)} | named


def _micro_batch_factors(method: Method, micro: AnyMicroBatch, micro_batches: int) -> dict[str, float]:
    """Of one micro-batch alone: its own means, and the mean of these over the micro-batches of the step."""
    counted = dict.fromkeys(method.tasks, 0)
    has_loss = micro.labels != IGNORED
    if isinstance(micro, MicroBatch):
        counted[micro.task] = int(has_loss.sum())
    else:
        for place, task in enumerate(method.tasks):
            of_task = micro.task_ids == place
            counted[task] = int(has_loss[of_task].sum())
    return {term: factor / micro_batches for term, factor in method.factors(counted).items()}


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
