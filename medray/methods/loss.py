"""The loss: exact token means over the whole global batch, a task each.

For task t let S_t be the sum of the cross-entropy over its loss tokens in one optimizer step, over all ranks and
micro-batches, and T_t the number of those tokens. With a label p, a rationale e and alpha = a the loss is

    L = a * w * S_p / T_p  +  (1 - a) * R

(distilling step-by-step, Hsieh et al. 2023, equation 4; w is a weight of the label). The rationale term R is

    one text               S_e / T_e
    keys, reduction mean   1/K * sum over k of S_k / T_k     K: the keys with T_k > 0 in this global batch
    keys, reduction sum          sum over k of S_k / T_k
    cosine                 S_e / T_e + C / N                 C: the sum of 1 - cos(u_r, v_r) over rows r

where u_r and v_r are the means of the encoder's last states over the tokens of a row's two inputs, and N is the number
of rows that have both tasks. T_t and N are known from the batch plan before the step runs, so each micro-batch adds
its own sums times the same factors, and the result is exact: it does not depend on how the batch was split. A term
without tokens is 0. One normalizer over both tasks would not do: labels are short, rationales long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from medray.config.method import MethodConfig
from medray.data.encode import IGNORED

COSINE = "cosine"  # the term's name beside those of tasks


@dataclass(frozen=True)
class AlphaSchedule:
    """alpha(e) = start + slope * max(0, e - from_epoch), kept within [0, cap] once it moves."""

    start: float
    from_epoch: float
    slope: float
    cap: float
    label_weight: float = 1.0

    def alpha(self, epoch: float) -> float:
        """epoch: progress before the step. Depends on nothing else, so that a resumed run has the same."""
        if epoch <= self.from_epoch:
            return self.start
        return min(max(self.start + self.slope * (epoch - self.from_epoch), 0.0), self.cap)


@dataclass(frozen=True)
class Method:
    """The tasks that are trained, in the order of their forwards, and the weight of each one's mean.

    Tasks `rationale/<key>` are one term: the weight of each is the term's. cosine: the two tasks' encodings are drawn
    together. norm: what a micro-batch's sums are divided by in training. schedule: moves the weights, see `at`; alpha:
    what it has come to, None without one.
    """

    weights: Mapping[str, float]
    reduction: Literal["mean", "sum"] = "mean"
    cosine: bool = False
    norm: Literal["token", "micro_batch"] = "token"
    schedule: AlphaSchedule | None = None
    alpha: float | None = None

    @classmethod
    def of(cls, config: MethodConfig) -> Method:
        if not config.two_tasks:
            return cls({"label": 1.0}, norm=config.loss_norm)
        alpha, moves = config.start_alpha, config.alpha_schedule
        return cls(
            _weights(config.tasks, alpha, config.label_weight),
            reduction=config.rationale.reduction,
            cosine=config.variant == "cosine",
            norm=config.loss_norm,
            schedule=AlphaSchedule(alpha, moves.from_epoch, moves.slope, moves.cap, config.label_weight)
            if config.dynamic
            else None,
            alpha=alpha if config.dynamic else None,
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def keys(self) -> tuple[str, ...]:
        """The tasks that are one key of a rationale each. Few rows have many of them."""
        return tuple(task for task in self.weights if task.startswith("rationale/"))

    @property
    def terms(self) -> tuple[str, ...]:
        """What sums are kept of: the tasks, and the cosine term."""
        return (*self.weights, COSINE) if self.cosine else self.tasks

    def at(self, epoch: float) -> Method:
        """The method as it is after so many epochs: the same tasks, with the weights then in force."""
        if self.schedule is None:
            return self
        alpha = self.schedule.alpha(epoch)
        return replace(self, weights=_weights(self.tasks, alpha, self.schedule.label_weight), alpha=alpha)

    def factors(self, totals: Mapping[str, int]) -> dict[str, float]:
        """What each term's sum is multiplied by; 0 where there is nothing of the term.

        totals: of the whole batch or set: loss tokens of each task and, for COSINE, rows that have both.
        """
        weights = dict(self.weights)
        if self.cosine:
            weights[COSINE] = weights["rationale"]
        if self.keys and self.reduction == "mean":
            present = sum(totals[task] > 0 for task in self.keys)
            weights |= {task: weights[task] / max(present, 1) for task in self.keys}
        return {term: weights[term] / totals[term] if totals[term] else 0.0 for term in self.terms}

    def loss(self, sums: Mapping[str, float], totals: Mapping[str, int]) -> float:
        """L of sums over a whole global batch or evaluation set."""
        factors = self.factors(totals)
        return sum(factors[term] * sums[term] for term in self.terms)

    def means(self, sums: Mapping[str, float], totals: Mapping[str, int]) -> dict[str, float]:
        """The mean of each term that has anything; of keys also `rationale`, which is the term that they make up."""
        found = {term: sums[term] / totals[term] for term in self.terms if totals[term]}
        keys = [found[task] for task in self.keys if task in found]
        if keys:
            found["rationale"] = sum(keys) / (len(keys) if self.reduction == "mean" else 1)
        return found


def _weights(tasks: tuple[str, ...], alpha: float, label_weight: float) -> dict[str, float]:
    return {task: alpha * label_weight if task == "label" else 1 - alpha for task in tasks}


def token_loss_sum(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross-entropy over labels that are not IGNORED, in float32. logits [..., vocab], labels [...]."""
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def cosine_loss_sum(encodings: Tensor, labels: Tensor) -> Tensor:
    """Sum of 1 - cos over the rows that have both tasks, in float32.

    encodings [2 * rows, hidden], labels [2 * rows, targets]: all rows of the label task, then the same rows of the
    rationale task; a row without the task has no label.
    """
    label, rationale = encodings.float().chunk(2)
    has = (labels != IGNORED).any(dim=-1)
    first, second = has.chunk(2)
    return ((1 - F.cosine_similarity(label, rationale, dim=-1)) * (first & second)).sum()


def loss_tokens(labels: Tensor) -> int:
    """Tokens that carry loss, counted."""
    return int((labels != IGNORED).sum())
