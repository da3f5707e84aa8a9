"""Losses of preference pairs: hand values, the properties that the papers state, finite differences, extreme values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from medray.config.method_specs.dpo import REFERENCE_FREE
from medray.methods.pair_losses import (
    Answers,
    PairLossName,
    PairOptions,
    pair_losses,
    pair_statistics,
)

LOSSES: tuple[Any, ...] = get_args(PairLossName)


def answers(chosen: object, rejected: object) -> Answers:
    return Answers(torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64))


def some_pairs(count: int = 64) -> tuple[Answers, Answers, Answers]:
    draw = torch.Generator().manual_seed(3)

    def uniform() -> Tensor:
        return -30 * torch.rand(count, generator=draw, dtype=torch.float64)

    def counts() -> Tensor:
        return torch.randint(1, 40, (count,), generator=draw).double()

    return Answers(uniform(), uniform()), Answers(uniform(), uniform()), Answers(counts(), counts())


ONE = answers([5.0], [5.0])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ((-12.0, -15.0), math.log1p(math.exp(2))),  # h = -1, penalty 4: z = -2
        ((-9.0, -15.0), math.log1p(math.exp(-0.8))),  # h = 2, no penalty
    ],
)
def test_dpop_has_its_hand_values(policy: tuple[float, float], expected: float) -> None:
    options = PairOptions(loss="dpop", beta=0.4, dpop_lambda=2.0)
    found = pair_losses(answers([policy[0]], [policy[1]]), answers([-10.0], [-14.0]), ONE, options)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_other_losses_have_their_hand_values() -> None:
    policy, reference, tokens = answers([-12.0], [-15.0]), answers([-10.0], [-14.0]), answers([4.0], [5.0])

    def found(**options: Any) -> float:
        return pair_losses(policy, reference, tokens, PairOptions(**options)).item()

    assert found(loss="sigmoid", beta=0.4) == pytest.approx(math.log1p(math.exp(0.4)))
    smoothed = 0.9 * math.log1p(math.exp(0.4)) + 0.1 * math.log1p(math.exp(-0.4))
    assert found(loss="sigmoid", beta=0.4, label_smoothing=0.1) == pytest.approx(smoothed)
    outside = math.log1p(math.exp(0.4)) + 2 * 2
    assert found(loss="dpop", beta=0.4, penalty="outside") == pytest.approx(outside)
    assert found(loss="hinge", beta=0.4) == pytest.approx(1.4)
    # averaged: (-3 + 3) - (-2.5 + 2.8) = -0.3
    assert found(loss="ipo", beta=0.4) == pytest.approx((-0.3 - 1.25) ** 2)
    assert found(loss="simpo", beta=2.0, gamma=0.5) == pytest.approx(math.log1p(math.exp(0.5)))
    assert found(loss="orpo", beta=0.1) == pytest.approx(0.1 * math.log(2))


def test_dpop_without_lambda_is_dpo_bit_for_bit() -> None:
    policy, reference, tokens = some_pairs()
    for penalty in ("inside", "outside"):
        dpop = PairOptions(loss="dpop", dpop_lambda=0.0, penalty=penalty)
        assert torch.equal(
            pair_losses(policy, reference, tokens, dpop),
            pair_losses(policy, reference, tokens, PairOptions(loss="sigmoid")),
        )


def gradients(policy: Answers, reference: Answers, options: PairOptions) -> tuple[Tensor, Tensor, Tensor]:
    leaves = Answers(policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_())
    tokens = Answers(torch.full_like(policy.chosen, 7.0), torch.full_like(policy.chosen, 9.0))
    loss = pair_losses(leaves, reference, tokens, options)
    loss.sum().backward()
    assert leaves.chosen.grad is not None
    assert leaves.rejected.grad is not None
    return loss.detach(), leaves.chosen.grad, leaves.rejected.grad


def test_above_the_reference_dpop_is_dpo_in_value_and_gradient() -> None:
    policy, reference, _ = some_pairs()
    above = Answers(torch.maximum(policy.chosen, reference.chosen + 0.1), policy.rejected)
    for dpop, dpo in zip(
        gradients(above, reference, PairOptions(loss="dpop", dpop_lambda=3.0)),
        gradients(above, reference, PairOptions(loss="sigmoid")),
        strict=True,
    ):
        assert torch.equal(dpop, dpo)


def test_below_the_reference_the_chosen_answer_pulls_with_one_plus_lambda() -> None:
    policy, reference = answers([-12.0], [-15.0]), answers([-10.0], [-14.0])
    loss, chosen, rejected = gradients(policy, reference, PairOptions(loss="dpop", beta=0.4, dpop_lambda=2.0))
    slope = 0.4 * (1 - math.exp(-loss.item()))  # beta (1 - s(z)), of a loss -log s(z)
    assert chosen.item() == pytest.approx(-slope * (1 + 2.0))
    assert rejected.item() == pytest.approx(slope)


def test_the_pull_does_not_vanish_while_the_chosen_answer_is_below_the_reference() -> None:
    """A rejected answer that is far below already leaves DPO without a gradient, DPOP not."""
    policy, reference = answers([-60.0], [-200.0]), answers([-10.0], [-100.0])
    _, dpo, _ = gradients(policy, reference, PairOptions(loss="sigmoid", beta=1.0))
    _, dpop, _ = gradients(policy, reference, PairOptions(loss="dpop", beta=1.0))
    assert abs(dpo.item()) < 1e-12
    assert dpop.item() == pytest.approx(-3.0)


@pytest.mark.parametrize("loss", ["sigmoid", "dpop"])
def test_a_policy_that_is_its_reference_costs_log_2(loss: Any) -> None:
    policy, _, tokens = some_pairs()
    found = pair_losses(policy, policy, tokens, PairOptions(loss=loss))
    torch.testing.assert_close(found, torch.full_like(found, math.log(2)))


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_falls_with_the_chosen_answer_and_rises_with_the_rejected(loss: Any) -> None:
    if loss in ("ipo", "hinge"):  # flat or rising beyond their margin: on the left of it
        policy, reference = answers([-12.0], [-15.0]), answers([-10.0], [-14.0])
    else:
        policy, reference, _ = some_pairs()
    options = PairOptions(loss=loss, beta=0.05)
    _, chosen, rejected = gradients(policy, reference, options)
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss: Any) -> None:
    policy, reference, tokens = some_pairs(8)
    options = PairOptions(loss=loss, beta=0.3, label_smoothing=0.05 if loss in ("sigmoid", "dpop") else 0.0)

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        return pair_losses(Answers(chosen, rejected), reference, tokens, options)

    assert torch.autograd.gradcheck(
        of, (policy.chosen.clone().requires_grad_(), policy.rejected.clone().requires_grad_())
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_values_stay_finite(loss: Any, size: float) -> None:
    policy = Answers(torch.tensor([-abs(size), -1e-9]), torch.tensor([-1e-9, -abs(size)]))
    reference = Answers(torch.zeros(2), torch.zeros(2))
    found = gradients(policy, reference, PairOptions(loss=loss, beta=1.0))
    assert all(torch.isfinite(each).all() for each in found)


def test_rewards_are_beta_times_the_gain_over_the_reference() -> None:
    policy, reference = answers([-12.0, -3.0], [-15.0, -2.0]), answers([-10.0, -3.5], [-14.0, -2.0])
    tokens = answers([4.0, 1.0], [5.0, 1.0])
    found = pair_statistics(policy, reference, tokens, PairOptions(loss="dpop", beta=0.5))
    assert {name: value.tolist() for name, value in found.items()} == {
        "reward_chosen": [-1.0, 0.25],
        "reward_rejected": [-0.5, 0.0],
        "reward_margin": [-0.5, 0.25],
        "preference_accuracy": [0.0, 1.0],
        "logp_chosen": [-12.0, -3.0],
        "logp_rejected": [-15.0, -2.0],
        "chosen_over_reference": [-2.0, 0.5],
        "penalized_pairs": [1.0, 0.0],
    }


def test_losses_without_a_reference_need_none() -> None:
    policy, _, tokens = some_pairs()
    for loss in LOSSES:
        options = replace(PairOptions(), loss=loss)
        assert options.needs_reference == (loss not in REFERENCE_FREE)
        if options.needs_reference:
            with pytest.raises(ValueError, match="needs log-probabilities of the reference"):
                pair_losses(policy, None, tokens, options)
        else:
            assert pair_losses(policy, None, tokens, options).shape == (64,)
            assert "chosen_over_reference" not in pair_statistics(policy, None, tokens, options)
