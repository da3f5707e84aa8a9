"""Cross-entropy sums of one forward: the same code for training and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.data.batches import MicroBatch, PackedMicroBatch
from medray.methods.chunked_loss import TokenLoss
from medray.models.forward import IGNORED, loss_logits, packed_logits


def loss_sums(
    model: Any,
    micro: MicroBatch | PackedMicroBatch,
    tasks: Sequence[str],
    loss: TokenLoss,
    *,
    device: torch.device,
    seq2seq: bool,
) -> dict[str, Tensor]:
    """The sum over the tokens of each task that the forward holds. tasks: by the numbers of a packed one."""

    def tensors(*arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]

    if isinstance(micro, MicroBatch):
        head_loss = loss.at_head(_logit_places(micro.labels, seq2seq=seq2seq))
        arrays = tensors(micro.input_ids, micro.attention_mask, micro.labels)
        found, labels = loss_logits(model, *arrays, seq2seq=seq2seq, head_loss=head_loss)
        return {micro.task: found.sum() if head_loss else loss.sum(found, labels)}
    head_loss = loss.at_head(int((micro.labels[:, 1:] != IGNORED).sum()))
    arrays = tensors(micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
    found, labels, places = packed_logits(model, *arrays, head_loss=head_loss)
    sizes = torch.bincount(places, minlength=len(tasks)).tolist()
    return {
        task: part.sum() if head_loss else loss.sum(part, wanted)
        for task, part, wanted in zip(tasks, found.split(sizes), labels.split(sizes), strict=True)
        if len(wanted)
    }


def _logit_places(labels: np.ndarray, *, seq2seq: bool) -> int:
    """Places of the logits of a forward as `loss_logits` gives them. labels: [batch, seq]."""
    if seq2seq:
        return int(labels.size)
    return len(labels) * int((labels[:, 1:] != IGNORED).any(axis=0).sum())
