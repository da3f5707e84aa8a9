"""Evaluation of the validation split during training: exact loss sums of all rows, and generated text for some.

Rank r of n takes every n-th row from row r. Rows without loss tokens give all ranks the same number of forward passes,
because under ZeRO stage 3 a forward pass is collective. Each row counts exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from medray.data.batching.collate import collate, collate_mixed, prompts
from medray.data.shards.row_values import RowValues
from medray.data.shards.shard_file import ShardStore
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.evaluate.loss_sums import PLAIN, AnyMicroBatch, Frozen, loss_sums, reference_values
from medray.evaluate.metrics import Entity, Reference
from medray.methods import MethodLoss
from medray.methods.cross_entropy import TokenLoss

Rows = Sequence[tuple[int, int] | None]


@dataclass(frozen=True)
class Validation:
    """The rows to evaluate, and how. rows: (shard, row) for the whole split, in order.

    stored: the numbers of a frozen model, for a method that needs them.
    """

    store: ShardStore
    rows: tuple[tuple[int, int], ...]
    architecture: Literal["causal", "seq2seq"]
    pad_id: int
    batch_size: int
    stored: RowValues | None = None

    def totals(self, method: MethodLoss) -> dict[str, int]:
        """Return the denominator of each loss term over the whole split, such as its number of loss tokens."""
        return method.denominators(
            np.array([self._counts(self.rows, task, "loss_tokens") for task in method.tasks])
        )

    @torch.no_grad()
    def loss_sums(
        self,
        model: Any,
        method: MethodLoss,
        device: torch.device,
        rank: int,
        world_size: int,
        loss: TokenLoss = PLAIN,
    ) -> dict[str, float]:
        """Return this rank's sum of each term of the loss. Add them over ranks and divide by `totals` for the means."""
        model.eval()
        sums = dict.fromkeys(method.terms, 0.0)
        for _, micro in self._micro_batches(method, rank, world_size):
            found = loss_sums(model, micro, method, device, seq2seq=self.architecture == "seq2seq", loss=loss)
            for term, value in found.items():
                sums[term] += float(value)
        return sums

    def reference_values(
        self,
        model: Any,
        method: MethodLoss,
        device: torch.device,
        rank: int,
        world_size: int,
        loss: TokenLoss,
        frozen: Frozen,
    ) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield rows of this rank, and what the frozen model gives for them, float32 [values, rows].

        The method has one group, whose forwards hold whole rows. Each rank yields the same number of times.
        """
        seq2seq = self.architecture == "seq2seq"
        for rows, micro in self._micro_batches(method, rank, world_size):
            found = reference_values(model, micro, method, device, seq2seq=seq2seq, loss=loss, frozen=frozen)
            yield rows, found.cpu().numpy()

    def _micro_batches(
        self, method: MethodLoss, rank: int, world_size: int
    ) -> Iterator[tuple[Rows, AnyMicroBatch]]:
        """Yield the micro-batches of rows that have a task of a group, and these rows.

        A forward has all tasks of a group whose forwards hold whole rows; a mixed task has forwards of its own.
        """
        spec = method.spec
        for tasks in (*spec.row_groups, *((task,) for task in spec.mixed_tasks)):
            counts = np.array([self._counts(self.rows, task, "loss_tokens") for task in tasks])
            rows = tuple(self.rows[place] for place in np.flatnonzero(counts.any(axis=0)).tolist())
            for batch in self._batches(self._by_length(rows, tasks[0]), rank, world_size):
                examples = [
                    [None if row is None else self.store.example(*row, task) for row in batch]
                    for task in tasks
                ]
                if len(tasks) == 1:
                    yield batch, collate(tasks[0], examples[0], self.architecture, self.pad_id)
                else:
                    mixed = [
                        (spec.task_names.index(task), one)
                        for task, found in zip(tasks, examples, strict=True)
                        for one in found
                    ]
                    micro = collate_mixed(mixed, self.architecture, self.pad_id)
                    known = None if self.stored is None else self.stored.of_rows(batch)
                    yield batch, replace(micro, reference=known)

    def predictions(
        self,
        model: Any,
        tokenizer: Any,
        count: int,
        decoding: Decoding,
        *,
        device: torch.device,
        rank: int,
        world_size: int,
        synced: bool,
    ) -> list[tuple[int, str]]:
        """Generate the labels of the first `count` rows and return this rank's share as (number of the row, generated
        label).
        """
        model.eval()
        chosen, found = self.rows[:count], []
        numbers = {row: number for number, row in enumerate(chosen)}
        for rows in self._batches(self._by_length(chosen, "label"), rank, world_size):
            # A weightless row generates for the first row, so that all ranks run the same forwards; its text is dropped.
            ids = [self.store.prompt(*(row or chosen[0])) for row in rows]
            texts = generate(
                model,
                tokenizer,
                prompts(ids, self.architecture, self.pad_id),
                decoding,
                device=device,
                synced=synced,
            )
            found += [(numbers[row], text) for row, text in zip(rows, texts, strict=True) if row is not None]
        return found

    def reference(self, number: int) -> Reference:
        """Return the reference answer of row `number`."""
        return reference(self.store, *self.rows[number])

    def _by_length(self, rows: tuple[tuple[int, int], ...], task: str) -> tuple[tuple[int, int], ...]:
        """Return the rows sorted by length, longest first, so that batches need little padding."""
        lengths = self._counts(rows, task, "length")
        return tuple(rows[place] for place in sorted(range(len(rows)), key=lambda place: -lengths[place]))

    def _counts(self, rows: Iterable[tuple[int, int]], task: str, name: str) -> list[int]:
        """Return one count of each row, with one look-up per shard."""
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
    """Return the reference answer of a validation row, with its entities if it has any."""
    entities = store.text(shard, row, "entities")
    known = (
        None if entities is None else tuple(Entity(e["text"], e["assertion"]) for e in json.loads(entities))
    )
    return Reference(str(store.text(shard, row, "reference")), known)
