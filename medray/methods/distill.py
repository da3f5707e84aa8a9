"""The loss of distillation: exact token means over the whole global batch, one per task.

For task t let S_t be the sum of the cross-entropy over its loss tokens in one optimizer step, over all ranks and
micro-batches, and T_t the number of those tokens. With a label p, a rationale e and alpha = a the loss is

    L = a * w * S_p / T_p  +  (1 - a) * R

(distilling step-by-step, Hsieh et al. 2023, equation 4; w is a weight of the label). The rationale term R is

    one text               S_e / T_e
    keys, reduction mean   1/K * sum over k of S_k / T_k     K: the keys with T_k > 0 in this global batch
    keys, reduction sum          sum over k of S_k / T_k
    cosine                 S_e / T_e + C / N                 C: sum of 1 - cos(u_r, v_r) over rows r

where u_r and v_r are the means of the encoder's last states over the tokens of a row's two inputs, and N is the number
of rows that have both tasks. Each task has its own denominator: rationales are much longer than labels, and with a
common one they would dominate the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import COSINE, moves_alpha, start_alpha, trains_rationales
from medray.data.encode import IGNORED
from medray.methods.cross_entropy import TokenLoss
from medray.methods.loss import MethodLoss, ModelOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class AlphaSchedule:
    """The schedule of alpha: alpha(e) = start + slope * max(0, e - from_epoch), within [0, cap] after from_epoch."""

    start: float
    from_epoch: float
    slope: float
    cap: float

    def alpha(self, epoch: float) -> float:
        """Return alpha at a step. epoch: epochs trained before the step."""
        if epoch <= self.from_epoch:
            return self.start
        return min(max(self.start + self.slope * (epoch - self.from_epoch), 0.0), self.cap)


@dataclass(frozen=True, kw_only=True)
class DistillLoss(MethodLoss):
    """The weighted sum of the token means of label and rationale.

    alpha: current weight of the label. Each key of a rationale has the weight of the rationale term. schedule: changes
    alpha during training, see `at`; None if alpha is constant.
    """

    alpha: float
    label_weight: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    schedule: AlphaSchedule | None = None

    @classmethod
    def of(cls, method: MethodConfig) -> Self:
        alpha, moves = start_alpha(method), method.alpha_schedule
        both = trains_rationales(method)  # mode standard has no weights
        return cls(
            spec=spec_of(method),
            norm=method.loss_norm,
            alpha=alpha if both else 1.0,
            label_weight=method.label_weight if both else 1.0,
            reduction=method.rationale.reduction,
            schedule=AlphaSchedule(start=alpha, from_epoch=moves.from_epoch, slope=moves.slope, cap=moves.cap)
            if moves_alpha(method)
            else None,
        )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each task's term."""
        return {
            task: self.alpha * self.label_weight if task == "label" else 1 - self.alpha for task in self.tasks
        }

    @property
    def _keys(self) -> tuple[str, ...]:
        """The tasks that write a single key of a rationale."""
        return tuple(task.name for task in self.spec.tasks if task.key)

    @property
    def _cosine(self) -> bool:
        return COSINE in self.spec.terms

    def sums(self, output: ModelOutput, cross_entropy: TokenLoss) -> dict[str, Tensor]:
        found = super().sums(output, cross_entropy)
        if output.encodings is None:
            return found
        labels = torch.cat([task.labels for task in output.tasks.values()])
        return found | {COSINE: cosine_loss_sum(output.encodings, labels)}

    def denominators(self, loss_tokens: np.ndarray) -> dict[str, int]:
        found = super().denominators(loss_tokens)
        return found | {COSINE: int((loss_tokens > 0).all(axis=0).sum())} if self._cosine else found

    def factors(self, denominators: Mapping[str, int]) -> dict[str, float]:
        weights, keys = self.weights, self._keys
        if self._cosine:
            weights[COSINE] = weights["rationale"]
        if keys and self.reduction == "mean":
            present = sum(denominators[task] > 0 for task in keys)
            weights |= {task: weights[task] / max(present, 1) for task in keys}
        return {
            term: weights[term] / denominators[term] if denominators[term] else 0.0 for term in self.terms
        }

    def means(self, sums: Mapping[str, float], denominators: Mapping[str, int]) -> dict[str, float]:
        """Return the mean of each term, and as `rationale` the term that the keys of a rationale form together."""
        found = super().means(sums, denominators)
        keys = [found[task] for task in self._keys if task in found]
        if keys:
            found["rationale"] = sum(keys) / (len(keys) if self.reduction == "mean" else 1)
        return found

    def at(self, epoch: float) -> Self:
        return self if self.schedule is None else replace(self, alpha=self.schedule.alpha(epoch))

    @property
    def settings(self) -> dict[str, float]:
        return {} if self.schedule is None else {"alpha": self.alpha}


def cosine_loss_sum(encodings: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of 1 - cos over the rows that have both tasks, in float32.

    encodings [2 * rows, hidden], labels [2 * rows, targets]: all rows of the label task, then the same rows of the
    rationale task. All labels of a row without the task are IGNORED.
    """
    label, rationale = encodings.float().chunk(2)
    has = (labels != IGNORED).any(dim=-1)
    first, second = has.chunk(2)
    return ((1 - F.cosine_similarity(label, rationale, dim=-1)) * (first & second)).sum()
