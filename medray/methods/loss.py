"""The interface of a loss: sums per micro-batch that are exact over ranks, micro-batches and accumulation.

A loss L of one optimizer step is a weighted sum of terms, and a term is a mean S / N over the global batch. S is added
up over all forwards of all ranks. N, the denominator, is known from the batch plan before the step runs. So each
forward back-propagates its own sums times the same factors, and the result does not depend on how the batch was split.
A term with N = 0 is 0.

A term may be linear in the tokens (cross-entropy of a task; N is its number of loss tokens) or any function of a row
that has all its tasks in one forward (`TaskGroup` by row), such as -log sigmoid of the difference of two answers'
log-probabilities; then S is a sum over rows and N the number of such rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from torch import Tensor

from medray.config.method import MethodConfig
from medray.config.method_specs import MethodSpec
from medray.data.encode import IGNORED
from medray.methods.cross_entropy import TokenLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutput:
    """The prediction of one forward for one task, aligned with the labels.

    values: logits [..., vocab] for `labels` [...], or losses [...] if the model's head computed them in chunks
    (is_loss). rows: index of the row of each label, [targets]; None if the first dimension of `labels` is the rows. row_count: rows of the micro-batch; row r is the same record in every task of the forward.
    """

    values: Tensor
    labels: Tensor
    row_count: int
    rows: Tensor | None = None
    is_loss: bool = False

    def loss_sum(self, cross_entropy: TokenLoss) -> Tensor:
        """Return the summed cross-entropy of all labels, float32."""
        return self.values.sum() if self.is_loss else cross_entropy.sum(self.values, self.labels)

    def row_losses(self, cross_entropy: TokenLoss) -> Tensor:
        """Return the summed cross-entropy of each row, float32 [rows]: the negative log-probability of its answer."""
        return self._by_row(self.values if self.is_loss else cross_entropy.each(self.values, self.labels))

    def row_tokens(self) -> Tensor:
        """Return the number of labels of each row that are not IGNORED, int64 [rows]; 0 if the row lacks the task."""
        return self._by_row((self.labels != IGNORED).long())

    def _by_row(self, values: Tensor) -> Tensor:
        if self.rows is None:
            return values.flatten(1).sum(dim=1)
        return values.new_zeros(self.row_count).index_add(0, self.rows, values)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOutput:
    """The predictions of one forward. tasks: those of the micro-batch, in the method's order; a task may have no labels.

    encodings: float32 [tasks * rows, hidden], ordered by task and then by row, for a method that compares the encodings
    of an encoder-decoder; otherwise None. reference: what a frozen model gives for each row, float32 [values, rows], for a
    method whose spec has a reference; NaN for a row that lacks a task.
    """

    tasks: Mapping[str, TaskOutput]
    encodings: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class MethodLoss(ABC):
    """The loss of a method: one class per method, registered in `medray.methods` under the name of its spec.

    norm: `micro_batch` divides the sums of a forward by its own counts, as published systems did; the result then
    depends on how a batch is split.
    """

    spec: MethodSpec
    norm: Literal["token", "micro_batch"] = "token"

    @classmethod
    @abstractmethod
    def of(cls, method: MethodConfig) -> Self:
        """Return the loss that a config describes."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The trained tasks, in the order of their forwards."""
        return self.spec.task_names

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of all sums: parts of the loss, and metrics that are only logged."""
        return (*self.spec.terms, *self.spec.metrics)

    def sums(self, output: ModelOutput, cross_entropy: TokenLoss) -> dict[str, Tensor]:
        """Return the sum of each term in the forward, with a gradient if the term is part of the loss.

        It is never empty, so every rank back-propagates in every forward. The default is the cross-entropy of each task.
        """
        return {name: task.loss_sum(cross_entropy) for name, task in output.tasks.items() if len(task.labels)}

    def reference_values(self, output: ModelOutput, cross_entropy: TokenLoss) -> Tensor:
        """Return the numbers that `spec.reference` names, of a forward of the frozen model, float32 [values, rows]."""
        raise NotImplementedError(f"method {self.spec.name} needs no reference")

    def denominators(self, loss_tokens: np.ndarray) -> dict[str, int]:
        """Return the denominator of each term. The default is the number of loss tokens of each task.

        loss_tokens: int [tasks, rows], for the rows of a global batch, an evaluation set, or one micro-batch.
        """
        return dict(zip(self.tasks, loss_tokens.sum(axis=1).tolist(), strict=True))

    @abstractmethod
    def factors(self, denominators: Mapping[str, int]) -> dict[str, float]:
        """Return the factor of each term's sum in the loss; 0 for a metric, and for a term whose denominator is 0."""

    def loss(self, sums: Mapping[str, float], denominators: Mapping[str, int]) -> float:
        """Return the loss L from sums over a whole global batch or evaluation set."""
        factors = self.factors(denominators)
        return sum(factors[term] * sums[term] for term in self.terms)

    def means(self, sums: Mapping[str, float], denominators: Mapping[str, int]) -> dict[str, float]:
        """Return the mean of each term whose denominator is not 0."""
        return {term: sums[term] / denominators[term] for term in self.terms if denominators[term]}

    def logged(
        self, sums: Mapping[str, float], denominators: Mapping[str, int], *, prefix: str
    ) -> dict[str, float]:
        """Return the means under their logged names. prefix: precedes the parts of the loss, but not metrics."""
        found = self.means(sums, denominators)
        return {
            name if name in self.spec.metrics else f"{prefix}{name}": mean for name, mean in found.items()
        }

    def at(self, epoch: float) -> Self:
        """Return the loss to use after `epoch` epochs. It depends on nothing else, so a resumed run uses the same."""
        return self

    @property
    def settings(self) -> dict[str, float]:
        """Values that change during a run, for the record of a step or an evaluation."""
        return {}
