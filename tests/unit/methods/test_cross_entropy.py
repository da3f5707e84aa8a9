"""The loss chunk by chunk is the loss of all logits, with its gradients; smoothing is torch's and the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medray.data.encode import IGNORED
from medray.methods.cross_entropy import (
    CHUNKS_THAT_PAY,
    TokenLoss,
    chosen_chunk,
    chunked_losses,
    token_loss_sum,
)

TOKENS, HIDDEN, VOCABULARY = 37, 16, 101


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 10, 37, 100])
def test_losses_and_gradients_are_those_of_all_logits(chunk: int, smoothing: float) -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(HIDDEN, VOCABULARY), torch.randn(TOKENS, HIDDEN, requires_grad=True)
    labels = torch.randint(VOCABULARY, (TOKENS,))
    labels[::5] = IGNORED
    inputs = [hidden, *head.parameters()]
    whole = token_loss_sum(head(hidden), labels, smoothing)
    wanted = torch.autograd.grad(whole, inputs)
    seen: list[int] = []

    def counted(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        made: torch.Tensor = head(part)
        return made

    found = chunked_losses(counted, hidden, labels, chunk_tokens=chunk, label_smoothing=smoothing)
    gradients = torch.autograd.grad(found.sum(), inputs)
    assert max(seen) <= chunk
    assert sum(seen) == 2 * TOKENS  # and once more in the backward pass
    assert not found[::5].any()
    torch.testing.assert_close(found.sum(), whole, rtol=1e-6, atol=0)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(
            chunked_losses(head, hidden, labels, chunk_tokens=chunk, label_smoothing=smoothing), found
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_in_16_bits_are_summed_in_float32(dtype: torch.dtype, smoothing: float) -> None:
    """Against float64 over the very logits that the head gives: a cross-entropy in 16 bits is off by 1e-3 and more."""
    torch.manual_seed(2)
    head = nn.Linear(HIDDEN, VOCABULARY).to(dtype)
    hidden = (3 * torch.randn(TOKENS, HIDDEN)).to(dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (TOKENS,))
    with torch.no_grad():
        logits = torch.cat([head(part) for part in hidden.split(10)]).double()
    wanted = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    with torch.no_grad():
        evaluated = chunked_losses(head, hidden, labels, chunk_tokens=10, label_smoothing=smoothing)
    trained = chunked_losses(head, hidden, labels, chunk_tokens=10, label_smoothing=smoothing)
    for found in (evaluated, trained):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    whole = token_loss_sum(logits.to(dtype), labels, smoothing)
    assert whole.dtype == torch.float32
    assert float(whole) == pytest.approx(float(wanted.sum()), rel=1e-6)
    trained.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == dtype


def test_smoothing_is_torchs_and_the_formula() -> None:
    """(1 - e) * nll + e * mean over the vocabulary of -log p, of the tokens that carry loss."""
    torch.manual_seed(1)
    logits, labels = torch.randn(3, 7, VOCABULARY) * 3, torch.randint(VOCABULARY, (3, 7))
    labels[1, 2:] = IGNORED
    found = TokenLoss(label_smoothing=0.2).sum(logits, labels)
    theirs = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=0.2, ignore_index=IGNORED
    )
    assert float(found) == float(theirs)
    logs, carries = torch.log_softmax(logits.double(), dim=-1), labels != IGNORED
    gold = logs.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    wanted = -(0.8 * gold + 0.2 * logs.mean(dim=-1))[carries].sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert TokenLoss(label_smoothing=0.2, chunk_tokens=3).unsmoothed() == TokenLoss(chunk_tokens=3)


def test_when_the_loss_is_computed_in_chunks() -> None:
    assert chosen_chunk(0, 128_256) == TokenLoss()
    assert chosen_chunk(0, 128_256).at_head(10**9) is None
    asked = chosen_chunk(100, 128_256)
    assert asked.at_head(100) is None
    assert asked.at_head(101) is not None
    chosen = chosen_chunk(None, 128_256)
    assert chosen.chunk_tokens == 261  # 2^25 values
    assert chosen.at_head(CHUNKS_THAT_PAY * 261) is None
    assert chosen.at_head(CHUNKS_THAT_PAY * 261 + 1) is not None
    assert chosen_chunk(None, 2**30).chunk_tokens == 1
