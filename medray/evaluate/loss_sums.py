"""Sums of the loss terms of one micro-batch: the one code of every rank in training, and of evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.data.batching.collate import MicroBatch, MixedMicroBatch, PackedMicroBatch
from medray.methods.chunked_loss import TokenLoss
from medray.methods.loss import COSINE, Method, cosine_loss_sum
from medray.models.forward import IGNORED, encoded_logits, loss_logits, packed_logits

AnyMicroBatch = MicroBatch | MixedMicroBatch | PackedMicroBatch
PLAIN = TokenLoss()


def loss_sums(
    model: Any,
    micro: AnyMicroBatch,
    method: Method,
    device: torch.device,
    *,
    seq2seq: bool,
    loss: TokenLoss = PLAIN,
) -> dict[str, Tensor]:
    """One forward, and of each term of `method` that the micro-batch holds the sum.

    With the cosine term a mixed micro-batch holds the label task's rows first, then the same rows of the rationale's;
    its logits are computed whole. loss: how the cross-entropy is computed.
    """

    def tensors(*arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]

    tasks = method.tasks
    if isinstance(micro, PackedMicroBatch):
        head_loss = loss.at_head(int((micro.labels[:, 1:] != IGNORED).sum()))
        arrays = tensors(micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
        found, labels, places = packed_logits(model, *arrays, head_loss=head_loss)
        sizes = torch.bincount(places, minlength=len(tasks)).tolist()
        return _by_task(found, labels, sizes, tasks, None if head_loss else loss)
    inputs = tensors(micro.input_ids, micro.attention_mask, micro.labels)
    if isinstance(micro, MixedMicroBatch) and method.cosine:
        rows = np.bincount(micro.task_ids, minlength=len(tasks)).tolist()
        logits, encodings = encoded_logits(model, *inputs)
        found_cosine = {COSINE: cosine_loss_sum(encodings, inputs[2])}
        return _by_task(logits, inputs[2], rows, tasks, loss) | found_cosine
    head_loss = loss.at_head(_logit_places(micro.labels, seq2seq=seq2seq))
    names = (
        [micro.task] * len(micro.labels)
        if isinstance(micro, MicroBatch)
        else [tasks[n] for n in micro.task_ids]
    )
    found, labels = loss_logits(model, *inputs, seq2seq=seq2seq, tasks=names, head_loss=head_loss)
    if isinstance(micro, MicroBatch):
        return {micro.task: found.sum() if head_loss else loss.sum(found, labels)}
    if head_loss:
        sizes = _targets(micro, len(tasks), seq2seq=seq2seq)
        return _by_task(found, labels, sizes, tasks, None)
    return _by_task(found, labels, np.bincount(micro.task_ids, minlength=len(tasks)).tolist(), tasks, loss)


def _by_task(
    found: Tensor, labels: Tensor, sizes: Sequence[int], tasks: tuple[str, ...], loss: TokenLoss | None
) -> dict[str, Tensor]:
    """Sums over the first dimension's parts, `sizes` of each task one after the other. loss: None where `found` are
    losses already, else logits."""
    return {
        task: part.sum() if loss is None else loss.sum(part, wanted)
        for task, part, wanted in zip(tasks, found.split(list(sizes)), labels.split(list(sizes)), strict=True)
        if len(wanted)
    }


def _targets(micro: MixedMicroBatch, tasks: int, *, seq2seq: bool) -> list[int]:
    """Places with a target, of each task; the one place that stands for none counts for the first row's task."""
    labels = micro.labels if seq2seq else micro.labels[:, 1:]
    each = (labels != IGNORED).sum(axis=1)
    counts = np.bincount(micro.task_ids, weights=each, minlength=tasks).astype(int)
    if not counts.sum():
        counts[micro.task_ids[0]] = 1
    return [int(count) for count in counts]


def _logit_places(labels: np.ndarray, *, seq2seq: bool) -> int:
    """Places of the logits of a forward as `loss_logits` gives them. labels: [batch, seq]."""
    if seq2seq:
        return int(labels.size)
    return len(labels) * int((labels[:, 1:] != IGNORED).any(axis=0).sum())
