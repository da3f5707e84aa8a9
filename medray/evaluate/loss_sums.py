"""Sums of the loss terms of one micro-batch: the one code of every rank in training, and of evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.data.batches import MicroBatch, MixedMicroBatch, PackedMicroBatch
from medray.methods.loss import COSINE, Method, cosine_loss_sum, token_loss_sum
from medray.models.forward import encoded_logits, loss_logits, packed_logits

AnyMicroBatch = MicroBatch | MixedMicroBatch | PackedMicroBatch


def loss_sums(
    model: Any, micro: AnyMicroBatch, method: Method, device: torch.device, *, seq2seq: bool
) -> dict[str, Tensor]:
    """One forward, and of each term of `method` that the micro-batch holds the sum.

    With the cosine term a mixed micro-batch holds the label task's rows first, then the same rows of the rationale's.
    """

    def tensors(*arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]

    tasks = method.tasks
    if isinstance(micro, MicroBatch):
        found = loss_logits(
            model, *tensors(micro.input_ids, micro.attention_mask, micro.labels), seq2seq=seq2seq
        )
        return {micro.task: token_loss_sum(*found)}
    if isinstance(micro, PackedMicroBatch):
        logits, labels, places = packed_logits(
            model, *tensors(micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
        )
        return _by_task(logits, labels, torch.bincount(places, minlength=len(tasks)).tolist(), tasks)
    ids, mask, labels = tensors(micro.input_ids, micro.attention_mask, micro.labels)
    sizes = np.bincount(micro.task_ids, minlength=len(tasks)).tolist()
    if not method.cosine:
        return _by_task(*loss_logits(model, ids, mask, labels, seq2seq=seq2seq), sizes, tasks)
    logits, encodings = encoded_logits(model, ids, mask, labels)
    return _by_task(logits, labels, sizes, tasks) | {COSINE: cosine_loss_sum(encodings, labels)}


def _by_task(logits: Tensor, labels: Tensor, sizes: list[int], tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """Sums over the first dimension's parts, `sizes` of each task one after the other."""
    return {
        task: token_loss_sum(part, wanted)
        for task, part, wanted in zip(tasks, logits.split(sizes), labels.split(sizes), strict=True)
        if len(wanted)
    }
