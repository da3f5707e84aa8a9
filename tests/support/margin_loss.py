"""The other half of the made-up method: the mean over pairs of -log sigmoid(BETA * (log p(label) - log p(rejected)))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.methods.cross_entropy import TokenLoss
from medray.methods.loss import MethodLoss, ModelOutput

BETA = 0.3


@dataclass(frozen=True, kw_only=True)
class MarginLoss(MethodLoss):
    """A term that is not linear in the tokens, and a metric without a gradient."""

    @classmethod
    def of(cls, method: MethodConfig) -> Self:
        return cls(spec=spec_of(method))

    def sums(self, output: ModelOutput, cross_entropy: TokenLoss) -> dict[str, Tensor]:
        chosen, rejected = (output.tasks[name] for name in ("label", "rejected"))
        margin = rejected.row_losses(cross_entropy) - chosen.row_losses(cross_entropy)
        pairs = (chosen.row_tokens() > 0) & (rejected.row_tokens() > 0)
        losses = torch.where(pairs, -F.logsigmoid(BETA * margin), 0.0 * margin)
        return {"pair": losses.sum(), "accuracy": ((margin > 0) & pairs).sum().float()}

    def denominators(self, loss_tokens: np.ndarray) -> dict[str, int]:
        return dict.fromkeys(self.terms, int((loss_tokens > 0).all(axis=0).sum()))

    def factors(self, denominators: Mapping[str, int]) -> dict[str, float]:
        pairs = denominators["pair"]
        return {"pair": 1 / pairs if pairs else 0.0, "accuracy": 0.0}
