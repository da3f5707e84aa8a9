"""The validation split on a live model: exact loss sums over all rows, greedy text for some.

Every rank takes each world_size-th row and is filled up with weightless rows to the same number of forwards, because
under ZeRO-3 a forward is a collective. Each row counts exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from medray.data.batches import MicroBatch, collate, prompts
from medray.data.shards import ShardStore
from medray.evaluate.generate import generate
from medray.evaluate.metrics import Entity, Reference
from medray.methods.loss import token_loss_sum
from medray.models.forward import loss_logits


@dataclass(frozen=True)
class Validation:
    """Rows to evaluate. rows: (shard, row) of the whole split, in order."""

    store: ShardStore
    rows: tuple[tuple[int, int], ...]
    architecture: Literal["causal", "seq2seq"]
    pad_id: int
    batch_size: int

    def totals(self, tasks: Iterable[str]) -> dict[str, int]:
        """Loss tokens of the whole split, a task each."""
        return {task: sum(self._counts(self.rows, task, "loss_tokens")) for task in tasks}

    @torch.no_grad()
    def loss_sums(
        self, model: Any, tasks: Iterable[str], device: torch.device, rank: int, world_size: int
    ) -> dict[str, float]:
        """This rank's sum of the token cross-entropy, a task each; add up over ranks, divide by `totals`."""
        model.eval()
        sums = {}
        for task in tasks:
            total = 0.0
            for rows in self._batches(self._by_length(self.rows, task), rank, world_size):
                examples = [None if row is None else self.store.example(*row, task) for row in rows]
                micro = collate(task, examples, self.architecture, self.pad_id)
                logits, labels = loss_logits(
                    model, *_tensors(micro, device), seq2seq=self.architecture == "seq2seq", task=task
                )
                total += float(token_loss_sum(logits, labels))
            sums[task] = total
        return sums

    def predictions(
        self,
        model: Any,
        tokenizer: Any,
        count: int,
        *,
        max_new_tokens: int,
        device: torch.device,
        rank: int,
        world_size: int,
        synced: bool,
    ) -> list[tuple[int, str]]:
        """(number of the row, generated label) of this rank's part of the first `count` rows."""
        model.eval()
        chosen, found = self.rows[:count], []
        numbers = {row: number for number, row in enumerate(chosen)}
        for rows in self._batches(self._by_length(chosen, "label"), rank, world_size):
            # A weightless place generates for the first row, so that all ranks do the same; its text is dropped.
            ids = [self.store.prompt(*(row or chosen[0])) for row in rows]
            texts = generate(
                model,
                tokenizer,
                prompts(ids, self.architecture, self.pad_id),
                max_new_tokens=max_new_tokens,
                device=device,
                synced=synced,
            )
            found += [(numbers[row], text) for row, text in zip(rows, texts, strict=True) if row is not None]
        return found

    def reference(self, number: int) -> Reference:
        """What row `number` should have been."""
        return reference(self.store, *self.rows[number])

    def _by_length(self, rows: tuple[tuple[int, int], ...], task: str) -> tuple[tuple[int, int], ...]:
        """Rows of alike length beside each other, the longest first: batches are padded little."""
        lengths = self._counts(rows, task, "length")
        return tuple(rows[place] for place in sorted(range(len(rows)), key=lambda place: -lengths[place]))

    def _counts(self, rows: Iterable[tuple[int, int]], task: str, name: str) -> list[int]:
        """A count of each row, each shard looked up once."""
        counts: dict[int, np.ndarray] = {}
        for shard, _ in rows:
            if shard not in counts:
                counts[shard] = self.store.counts(shard, task, name)
        return [int(counts[shard][row]) for shard, row in rows]

    def _batches(
        self, rows: tuple[tuple[int, int], ...], rank: int, world_size: int
    ) -> Iterable[list[tuple[int, int] | None]]:
        each = -(-len(rows) // world_size)
        mine: list[tuple[int, int] | None] = [*rows[rank::world_size]]
        mine += [None] * (each - len(mine))
        for start in range(0, each, self.batch_size):
            yield mine[start : start + self.batch_size]


def reference(store: ShardStore, shard: int, row: int) -> Reference:
    """The truth of one validation row."""
    entities = store.text(shard, row, "entities")
    known = (
        None if entities is None else tuple(Entity(e["text"], e["assertion"]) for e in json.loads(entities))
    )
    return Reference(str(store.text(shard, row, "reference")), known)


def _tensors(micro: MicroBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids, mask, labels = (
        torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for array in (micro.input_ids, micro.attention_mask, micro.labels)
    )
    return ids, mask, labels
