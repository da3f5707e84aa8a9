"""Cross-entropy, the sum that every loss is made of; also without the logits of all tokens at once.

Logits are the largest tensor of a step where the vocabulary is large: 8,192 tokens of 128,256 words are 4.2 GB in
float32, and the loss holds several such tensors. Here the head runs on some tokens at a time, and again in the backward
pass: of a chunk nothing stays but its losses. The price is one more product with the head's weight; what is computed is
the same, chunk by chunk (Wijmans et al. 2024, "Cut your losses", section 2, has the arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from medray.data.encode import IGNORED

CHUNK_LOGITS = 2**25  # values: 128 MiB in float32
CHUNKS_THAT_PAY = 4  # with fewer, logits are not what fills the memory


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy sums, one way of computing them for training and evaluation.

    label_smoothing: share of each target that all tokens of the vocabulary get alike (Szegedy et al. 2016, section 7).
    chunk_tokens: tokens whose logits exist at once; None: all. more_than: tokens up to which it is all the same.
    """

    label_smoothing: float = 0.0
    chunk_tokens: int | None = None
    more_than: int = 0

    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return token_loss_sum(logits, labels, self.label_smoothing)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label, float32 [...]; 0 where it is IGNORED. logits [..., vocab], labels [...]."""
        return F.cross_entropy(
            logits.float().flatten(0, -2),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing,
        ).view_as(labels)

    def at_head(self, tokens: int) -> partial[Tensor] | None:
        """Return the loss that replaces the head of a forward with `tokens` logits; None: compute the logits."""
        if self.chunk_tokens is None or tokens <= max(self.more_than, self.chunk_tokens):
            return None
        return partial(chunked_losses, chunk_tokens=self.chunk_tokens, label_smoothing=self.label_smoothing)

    def unsmoothed(self) -> TokenLoss:
        """For evaluation: comparable whatever a run was trained with."""
        return replace(self, label_smoothing=0.0)


def token_loss_sum(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross-entropy over labels that are not IGNORED, in float32. logits [..., vocab], labels [...]."""
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def chosen_chunk(asked: int | None, vocabulary: int) -> TokenLoss:
    """The loss, not smoothed, of `train.loss_chunk_tokens`: None chooses by the vocabulary, 0 is all at once."""
    if asked == 0:
        return TokenLoss()
    if asked is not None:
        return TokenLoss(chunk_tokens=asked)
    chunk = max(CHUNK_LOGITS // vocabulary, 1)
    return TokenLoss(chunk_tokens=chunk, more_than=CHUNKS_THAT_PAY * chunk)


def chunked_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    *,
    chunk_tokens: int,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of each token, float32 [tokens]; 0 where the label is IGNORED.

    head: hidden [tokens, hidden] -> logits [tokens, vocab], may be any module's forward. hidden [tokens, hidden], labels [tokens].
    """

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(
            head(part).float(),
            wanted,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=label_smoothing,
        )

    parts = zip(hidden.split(chunk_tokens), labels.split(chunk_tokens), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses(*part) for part in parts])
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts])
