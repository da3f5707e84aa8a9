"""Losses of preference pairs against TRL's own, called with stand-ins for what surrounds them in its trainers.

TRL takes long to import: these run in `make test-all`. What they show stands by itself in test_pair_losses.py, by hand values.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from medray.methods.pair_losses import Answers, PairOptions, pair_losses

PAIRS, LENGTH, PROMPT = 6, 12, 4
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trainers() -> SimpleNamespace:
    from trl import DPOTrainer
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    return SimpleNamespace(dpo=DPOTrainer, cpo=CPOTrainer, orpo=ORPOTrainer)


@pytest.fixture
def tokens() -> Tensor:
    """The mask of the answers' tokens, [2 * PAIRS, LENGTH]: all chosen answers, then the rejected ones."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.zeros(2 * PAIRS, LENGTH, dtype=torch.long)
    for row in mask:
        row[PROMPT : PROMPT + int(torch.randint(2, 8, (1,), generator=draw))] = 1
    return mask


def summed(values: Tensor, mask: Tensor) -> Answers:
    """values: of each token but the first, [2 * PAIRS, LENGTH - 1]."""
    return Answers(*(values * mask[:, 1:]).sum(dim=1).chunk(2))


def policy_and_reference(mask: Tensor) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    policy, reference = (-3 * torch.rand(2 * PAIRS, LENGTH - 1, generator=draw) for _ in range(2))
    return policy, reference


class Accelerator:
    device = torch.device("cpu")

    def gather(self, value: Any) -> Any:
        return value

    gather_for_metrics = unwrap_model = gather


def of_dpo_trainer(
    trainer: Any, policy: Tensor, reference: Answers, mask: Tensor, kind: str, beta: float
) -> Any:
    policy = policy * mask[:, 1:]
    zeros = torch.zeros_like(policy)
    output = SimpleNamespace(
        log_probs=policy,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
        log_sum_sq_probs=zeros,
    )
    itself = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[kind],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        args=SimpleNamespace(discopop_tau=0.05),
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference.chosen,
        "ref_rejected_logps": reference.rejected,
    }
    return trainer._compute_loss(itself, lambda **_: output, inputs, False)


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "ipo"])
def test_losses_with_a_reference_are_those_of_trl(
    trainers: SimpleNamespace, tokens: Tensor, kind: Any
) -> None:
    policy, reference = policy_and_reference(tokens)
    frozen = summed(reference, tokens)
    counts = Answers(*tokens[:, 1:].sum(dim=1).float().chunk(2))
    ours = pair_losses(summed(policy, tokens), frozen, counts, PairOptions(loss=kind, beta=0.3)).mean()
    theirs = of_dpo_trainer(trainers.dpo, policy, frozen, tokens, kind, 0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_is_that_of_trl(trainers: SimpleNamespace, tokens: Tensor, smoothing: float) -> None:
    policy, _ = policy_and_reference(tokens)
    counts = Answers(*tokens[:, 1:].sum(dim=1).float().chunk(2))
    itself = SimpleNamespace(
        alpha=0.0,
        accelerator=Accelerator(),
        beta=2.0,
        loss_type="simpo",
        simpo_gamma=0.5,
        label_smoothing=smoothing,
    )
    averaged = summed(policy, tokens).averaged(counts)
    theirs, _, _ = trainers.cpo.cpo_loss(itself, averaged.chosen, averaged.rejected)
    options = PairOptions(loss="simpo", beta=2.0, gamma=0.5, label_smoothing=smoothing)
    torch.testing.assert_close(
        pair_losses(summed(policy, tokens), None, counts, options), theirs, rtol=1e-6, atol=1e-6
    )


def test_orpo_is_that_of_trl(trainers: SimpleNamespace, tokens: Tensor) -> None:
    policy, _ = policy_and_reference(tokens)
    counts = Answers(*tokens[:, 1:].sum(dim=1).float().chunk(2))
    averaged = summed(policy, tokens).averaged(counts)
    itself = SimpleNamespace(beta=0.2, accelerator=Accelerator())
    theirs = trainers.orpo.odds_ratio_loss(itself, averaged.chosen, averaged.rejected)[0]
    ours = pair_losses(summed(policy, tokens), None, counts, PairOptions(loss="orpo", beta=0.2))
    torch.testing.assert_close(ours, -theirs, rtol=1e-6, atol=1e-6)
