"""Losses of preference pairs, as functions of summed log-probabilities.

A pair has a prompt, a chosen answer w and a rejected answer l. pi_w and pi_l are the sums of the log-probabilities of
the answer's tokens under the model that is trained, ref_w and ref_l under the frozen reference; |w| and |l| are the
numbers of those tokens. With h = (pi_w - pi_l) - (ref_w - ref_l), z = beta h and eps the label smoothing, a pair costs

    sigmoid       -(1 - eps) log s(z) - eps log s(-z)                     Rafailov et al. 2023, equation 7
    dpop          sigmoid with h - lambda max(0, ref_w - pi_w) for h      Pal et al. 2024, equation 3
    dpop outside  sigmoid + lambda max(0, ref_w - pi_w)                   a circulating variant, not the published form
    ipo           (h' - 1 / (2 beta))^2                                   Azar et al. 2023, equation 17
    hinge         max(0, 1 - z)                                           Zhao et al. 2023
    simpo         sigmoid with z = beta (pi_w/|w| - pi_l/|l|) - gamma     Meng et al. 2024, equation 6
    orpo          -beta log s(odds_w - odds_l)                            Hong et al. 2024, equation 7

h' is h of log-probabilities averaged over their tokens, as in TRL: with sums, the target 1 / (2 beta) would mean a
different margin per token for each length. odds = log(p / (1 - p)) of the averaged log-probability. simpo and orpo have no reference.
The published lambda of dpop is 50 for averaged values; with sums it diverges, and the DFPO system uses 2.
A difference ref_w - pi_w below 1e-4 of ref_w counts as 0 in dpop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medray.config.method_specs.dpo import REFERENCE_FREE

PairLossName = Literal["sigmoid", "dpop", "ipo", "hinge", "simpo", "orpo"]

# Log-probabilities whose relative difference is smaller count as equal.
_EQUAL = 1e-4
# A probability of 1 has infinite odds: the averaged log-probability is kept this far below 0.
_BELOW_ZERO = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """The loss of a pair and its constants. Each loss reads only the constants that its formula names."""

    loss: PairLossName = "sigmoid"
    beta: float = 0.1
    dpop_lambda: float = 2.0
    penalty: Literal["inside", "outside"] = "inside"
    gamma: float = 0.5
    label_smoothing: float = 0.0

    @property
    def needs_reference(self) -> bool:
        return self.loss not in REFERENCE_FREE


@dataclass(frozen=True, slots=True)
class Answers:
    """Log-probabilities of the chosen and the rejected answers of pairs, each float32 [pairs]."""

    chosen: Tensor
    rejected: Tensor

    def averaged(self, tokens: Answers) -> Answers:
        """Return the means over the answers' tokens. tokens: number of tokens of each answer, at least 1."""
        return Answers(self.chosen / tokens.chosen, self.rejected / tokens.rejected)


def pair_losses(policy: Answers, reference: Answers | None, tokens: Answers, options: PairOptions) -> Tensor:
    """Return the loss of each pair, float32 [pairs].

    policy, reference: summed log-probabilities; reference is None for losses without one. tokens: the number of
    tokens of each answer. Raises ValueError if the loss needs a reference and has none.
    """
    beta = options.beta
    if options.loss in REFERENCE_FREE:
        averaged = policy.averaged(tokens)
        if options.loss == "simpo":
            return _smoothed(beta * (averaged.chosen - averaged.rejected) - options.gamma, options)
        return -beta * F.logsigmoid(_log_odds(averaged.chosen) - _log_odds(averaged.rejected))
    if reference is None:
        raise ValueError(f"the loss {options.loss} needs log-probabilities of the reference")
    if options.loss == "ipo":
        policy, reference = policy.averaged(tokens), reference.averaged(tokens)
        return (_margin(policy, reference) - 1 / (2 * beta)) ** 2
    margin = _margin(policy, reference)
    if options.loss == "hinge":
        return F.relu(1 - beta * margin)
    if options.loss == "sigmoid" or not options.dpop_lambda:  # lambda 0 is DPO, bit for bit
        return _smoothed(beta * margin, options)
    penalty = options.dpop_lambda * _fall(policy, reference)
    if options.penalty == "outside":
        return _smoothed(beta * margin, options) + penalty
    return _smoothed(beta * (margin - penalty), options)


def pair_statistics(
    policy: Answers, reference: Answers | None, tokens: Answers, options: PairOptions
) -> Mapping[str, Tensor]:
    """Return the statistics of each pair, float32 [pairs]; their means over pairs are logged as metrics.

    reward_chosen, reward_rejected: beta times the gain over the reference (TRL's definition); for losses without a
    reference, beta times the averaged log-probability. reward_margin: their difference. preference_accuracy: 1 for a
    positive difference, otherwise 0. logp_chosen, logp_rejected: summed log-probabilities. chosen_over_reference:
    pi_w - ref_w, which dpop keeps from falling. penalized_pairs: 1 if dpop's penalty is active, otherwise 0.
    """
    if reference is None:
        averaged = policy.averaged(tokens)
        rewards = Answers(options.beta * averaged.chosen, options.beta * averaged.rejected)
    else:
        rewards = Answers(
            options.beta * (policy.chosen - reference.chosen),
            options.beta * (policy.rejected - reference.rejected),
        )
    margin = rewards.chosen - rewards.rejected
    found = {
        "reward_chosen": rewards.chosen,
        "reward_rejected": rewards.rejected,
        "reward_margin": margin,
        "preference_accuracy": (margin > 0).float(),
        "logp_chosen": policy.chosen,
        "logp_rejected": policy.rejected,
    }
    if reference is not None:
        gain = policy.chosen - reference.chosen
        found["chosen_over_reference"] = gain
        if options.loss == "dpop":
            found["penalized_pairs"] = (_fall(policy, reference) > 0).float()
    return found


def _fall(policy: Answers, reference: Answers) -> Tensor:
    """Return max(0, ref_w - pi_w), and 0 for a difference that rounding alone can make.

    When training begins, the policy is the reference. max(0, x) has a kink there: without a tolerance, rounding would
    decide which pairs have the gradient of the penalty in the first step, and the run would depend on the layout of its batches.
    """
    fall = F.relu(reference.chosen - policy.chosen)
    return torch.where(fall > _EQUAL * reference.chosen.abs(), fall, 0.0 * fall)


def _margin(policy: Answers, reference: Answers) -> Tensor:
    return (policy.chosen - policy.rejected) - (reference.chosen - reference.rejected)


def _smoothed(logits: Tensor, options: PairOptions) -> Tensor:
    loss = -F.logsigmoid(logits)
    if not options.label_smoothing:
        return loss
    return (1 - options.label_smoothing) * loss - options.label_smoothing * F.logsigmoid(-logits)


def _log_odds(averaged: Tensor) -> Tensor:
    """Return log(p / (1 - p)) from log p, without the cancellation in 1 - exp(log p) near p = 1."""
    below = averaged.clamp(max=-_BELOW_ZERO)
    return below - torch.log(-torch.expm1(below))
