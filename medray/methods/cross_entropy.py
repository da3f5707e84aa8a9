"""Cross-entropy sums, which every loss consists of, also computed in chunks of tokens to save memory.

With a large vocabulary, logits are the largest tensor of a step: 8,192 tokens times 128,256 entries are 4.2 GB in float32,
and the loss needs several such tensors. In chunks, the head runs on some tokens at a time, and again in the backward pass,
so that only the losses of a chunk stay in memory. This costs one more product with the head's weight. The result is the
same (arithmetic: Wijmans et al. 2024, "Cut your losses", section 2).
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

CHUNK_LOGITS = 2**25  # number of values; 128 MiB in float32
CHUNKS_THAT_PAY = 4  # with fewer chunks, logits are a small part of the memory


@dataclass(frozen=True)
class TokenLoss:
    """A way to compute the cross-entropy, the same for training and evaluation.

    label_smoothing: share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    chunk_tokens: number of tokens whose logits exist at once; None: all. more_than: a forward with at most this number
    of tokens is not split into chunks.
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
        """Return the loss without smoothing, for evaluations that can be compared between runs."""
        return replace(self, label_smoothing=0.0)


def token_loss_sum(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the summed cross-entropy of labels that are not IGNORED, float32. logits [..., vocab], labels [...]."""
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def chosen_chunk(asked: int | None, vocabulary: int) -> TokenLoss:
    """Return the loss, without smoothing, for `train.loss_chunk_tokens`. None: choose by the vocabulary. 0: no chunks."""
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
    """Return the cross-entropy of each token, float32 [tokens]; 0 where the label is IGNORED.

    head: maps hidden [tokens, hidden] to logits [tokens, vocab]; it may be the forward of any module. labels [tokens].
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
