from __future__ import annotations

import pytest
import torch

from medray.methods.loss import Method, token_loss_sum


def test_token_loss_sum_is_the_formula() -> None:
    logits = torch.tensor([[[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], [[0.0, 3.0, 0.0], [9.0, 9.0, 9.0]]])
    labels = torch.tensor([[0, 2], [1, -100]])
    wanted = sum(
        -float(torch.log(torch.exp(logits[row, place, label]) / torch.exp(logits[row, place]).sum()))
        for row, place, label in ((0, 0, 0), (0, 1, 2), (1, 0, 1))
    )
    assert float(token_loss_sum(logits, labels)) == pytest.approx(wanted, rel=1e-6)


def test_a_task_without_tokens_adds_zero_and_no_nan() -> None:
    method = Method({"label": 0.3, "rationale": 0.7})
    share = method.contribution("rationale", torch.tensor(0.0, requires_grad=True), 0)
    assert float(share.detach()) == 0.0
    assert method.loss({"label": 6.0, "rationale": 0.0}, {"label": 3, "rationale": 0}) == pytest.approx(0.6)


def test_tasks_have_normalizers_of_their_own() -> None:
    method = Method({"label": 0.5, "rationale": 0.5})
    assert method.loss({"label": 4.0, "rationale": 100.0}, {"label": 2, "rationale": 100}) == pytest.approx(
        1.5
    )
    half = method.contribution("label", torch.tensor(1.0), 2) + method.contribution(
        "label", torch.tensor(3.0), 2
    )
    assert float(half) == pytest.approx(0.5 * 4.0 / 2)
