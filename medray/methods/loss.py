"""The loss: exact token means over the whole global batch, a task each.

For task t let S_t be the sum of the cross-entropy over its loss tokens in one optimizer step, over all ranks and
micro-batches, and T_t the number of those tokens. The loss is

    L = sum over t of  w_t * S_t / T_t

(distilling step-by-step, Hsieh et al. 2023, equation 4, with w_label = alpha and w_rationale = 1 - alpha). T_t is known
from the batch plan before the step runs, so each micro-batch adds w_t * s_t / T_t and the sum over micro-batches and
ranks is exact: it does not depend on how the batch was split. One normalizer over both tasks would not do: labels are
short, rationales long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


@dataclass(frozen=True)
class Method:
    """The tasks that are trained, in the order of their forwards, and the weight of each one's mean."""

    weights: Mapping[str, float]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def contribution(self, task: str, loss_sum: Tensor, total_tokens: int) -> Tensor:
        """w_t * s_t / T_t of one micro-batch; zero, and no NaN, where the global batch has no token of the task."""
        return loss_sum * (self.weights[task] / total_tokens if total_tokens else 0.0)

    def loss(self, sums: Mapping[str, float], totals: Mapping[str, int]) -> float:
        """L of sums over a whole global batch or evaluation set."""
        return sum(w * sums[task] / totals[task] for task, w in self.weights.items() if totals[task])


def token_loss_sum(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross-entropy over labels that are not IGNORED, in float32. logits [..., vocab], labels [...]."""
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def loss_tokens(labels: Tensor) -> int:
    """Tokens that carry loss, counted."""
    return int((labels != IGNORED).sum())
