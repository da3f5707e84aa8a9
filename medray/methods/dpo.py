"""The loss of preference training: L = S / P + nu * N / T over the P pairs of the global batch.

S is the sum of the pairs' losses (`pair_losses` has the formulas), N the sum of the cross-entropy over the T tokens of
the chosen answers of these pairs, nu `method.nll_weight`. A pair is a row whose two answers both have tokens: one with
an answer over the limit counts nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from medray.config.method import MethodConfig
from medray.config.method_specs import LABEL, spec_of
from medray.config.method_specs.dpo import PREFERENCE, REJECTED, nll_weight
from medray.methods.cross_entropy import TokenLoss
from medray.methods.loss import MethodLoss, ModelOutput
from medray.methods.pair_losses import Answers, PairOptions, pair_losses, pair_statistics

_ANSWERS = (LABEL.name, REJECTED)


@dataclass(frozen=True, kw_only=True)
class DpoLoss(MethodLoss):
    """The mean over pairs of one of the losses of `pair_losses`. nll_weight: weight of the chosen answers' cross-entropy."""

    options: PairOptions
    nll_weight: float = 0.0

    @classmethod
    def of(cls, method: MethodConfig) -> Self:
        options = PairOptions(
            loss=method.loss,
            beta=method.beta,
            dpop_lambda=method.dpop_lambda,
            penalty=method.penalty,
            gamma=method.gamma,
            label_smoothing=method.label_smoothing,
        )
        return cls(spec=spec_of(method), options=options, nll_weight=nll_weight(method))

    def sums(self, output: ModelOutput, cross_entropy: TokenLoss) -> dict[str, Tensor]:
        tokens = torch.stack([output.tasks[name].row_tokens() for name in _ANSWERS])
        pairs = (tokens > 0).all(dim=0)
        policy = self.reference_values(output, cross_entropy)[:, pairs]
        known = output.reference
        reference = None if self.spec.reference is None or known is None else Answers(*known[:, pairs])
        answers, lengths = Answers(*policy), Answers(*tokens[:, pairs])
        found = {PREFERENCE: pair_losses(answers, reference, lengths, self.options).sum()}
        if LABEL.name in self.spec.terms:
            found[LABEL.name] = -answers.chosen.sum()
        with torch.no_grad():
            statistics = pair_statistics(answers, reference, lengths, self.options)
        return found | {name: statistics[name].sum() for name in self.spec.metrics}

    def reference_values(self, output: ModelOutput, cross_entropy: TokenLoss) -> Tensor:
        """Return the summed log-probabilities of both answers of each row, float32 [2, rows]."""
        return -torch.stack([output.tasks[name].row_losses(cross_entropy) for name in _ANSWERS])

    def denominators(self, loss_tokens: np.ndarray) -> dict[str, int]:
        pairs = (loss_tokens > 0).all(axis=0)
        found = dict.fromkeys(self.terms, int(pairs.sum()))
        if LABEL.name in found:
            found[LABEL.name] = int(loss_tokens[0][pairs].sum())
        return found

    def factors(self, denominators: Mapping[str, int]) -> dict[str, float]:
        weights = {PREFERENCE: 1.0, LABEL.name: self.nll_weight}
        return {
            term: weights.get(term, 0.0) / denominators[term] if denominators[term] else 0.0
            for term in self.terms
        }
