"""One optimizer step: the plan's rows through the method's tasks into the engine. Knows neither Ray nor tracking."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medray.data.batches import MicroBatch, collate
from medray.data.order import WEIGHTLESS, Batch, Order, rank_slots
from medray.data.shards import ShardStore
from medray.methods.loss import Method, token_loss_sum
from medray.models.forward import loss_logits
from medray.train.engine import Engine


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch lies on ranks: slots = world_size x micro_batch_size x accumulation >= its rows."""

    micro_batch_size: int
    slots: int


@dataclass(frozen=True)
class Prepared:
    """A step's arrays for one rank, made ahead of time.

    micro: one list of micro-batches an accumulation step, a task each. totals: loss tokens of the global batch, a
    task each. ids: of the real rows of the global batch, in order.
    """

    batch: Batch
    micro: list[list[MicroBatch]]
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
    """Turns the plan's step into this rank's arrays."""

    def __init__(
        self,
        store: ShardStore,
        order: Order,
        method: Method,
        layout: BatchLayout,
        *,
        rank: int,
        world_size: int,
        architecture: Literal["causal", "seq2seq"],
        pad_id: int,
    ) -> None:
        self._store, self._order, self._method = store, order, method
        self._architecture, self._pad_id = architecture, pad_id
        self._ranges = rank_slots(layout.slots, world_size, layout.micro_batch_size, rank)

    def prepare(self, step: int) -> Prepared:
        batch = self._order.batch(step)
        pairs = [(int(shard), int(row)) for shard, row in zip(batch.shards, batch.rows, strict=True)]
        real = [pair for pair in pairs if pair[0] != WEIGHTLESS]
        placed = sorted(real, key=self._length, reverse=True)
        micro = [
            [
                self._collate(task, [placed[slot] if slot < len(placed) else None for slot in slots])
                for task in self._method.tasks
            ]
            for slots in self._ranges
        ]
        return Prepared(
            batch=batch,
            micro=micro,
            totals={task: self._count(real, task, "loss_tokens") for task in self._method.tasks},
            tokens=sum(self._count(real, task, "length") for task in self._method.tasks),
            ids=[str(self._store.text(shard, row, "id")) for shard, row in real],
        )

    def _length(self, pair: tuple[int, int]) -> int:
        """Tokens of a row. Within a global batch rows of alike length are computed together, on all ranks at once:
        little is padded and no rank waits long. The loss is a sum, so places do not change it."""
        return self._count([pair], self._method.tasks[0], "length")

    def _collate(self, task: str, pairs: list[tuple[int, int] | None]) -> MicroBatch:
        examples = [None if pair is None else self._store.example(*pair, task) for pair in pairs]
        return collate(task, examples, self._architecture, self._pad_id)

    def _count(self, pairs: list[tuple[int, int]], task: str, name: str) -> int:
        return sum(int(self._store.counts(shard, task, name)[row]) for shard, row in pairs)


def train_step(
    engine: Engine, prepared: Prepared, method: Method, *, lr: float, seed: int, step: int, seq2seq: bool
) -> dict[str, Any]:
    """Runs 0-based `step` and returns its record: losses of the whole global batch, equal on all ranks."""
    began = time.perf_counter()
    engine.model.train()
    sums = torch.zeros(
        len(method.tasks) + 1, dtype=torch.float64
    )  # the last counts places that were computed
    for number, tasks in enumerate(prepared.micro):
        for place, micro in enumerate(tasks):
            # Dropout depends on (seed, step, slot, rank) alone: a resumed run needs no generator state.
            torch.manual_seed(_mix(seed, step, number * len(tasks) + place, engine.rank))
            logits, labels = loss_logits(engine.model, *_tensors(micro, engine.device), seq2seq=seq2seq)
            loss_sum = token_loss_sum(logits, labels)
            engine.backward(method.contribution(micro.task, loss_sum, prepared.totals[micro.task]))
            sums[place] += loss_sum.detach().double().cpu()
            sums[-1] += micro.input_ids.size + (micro.labels.size if seq2seq else 0)
    grad_norm = engine.step(lr)
    *totals, computed = engine.sum(sums.to(engine.device)).tolist()
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
        "computed_tokens": int(computed),
        "seconds": time.perf_counter() - began,
    }


def _tensors(micro: MicroBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    ids, mask, labels = (
        torch.from_numpy(array).to(device) for array in (micro.input_ids, micro.attention_mask, micro.labels)
    )
    return ids, mask, labels


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
