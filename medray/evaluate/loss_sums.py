"""Sums of the loss terms of one micro-batch, computed by the same code in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.data.batching.collate import NO_TASK, MicroBatch, MixedMicroBatch, PackedMicroBatch
from medray.data.encode import IGNORED
from medray.methods import MethodLoss
from medray.methods.cross_entropy import TokenLoss
from medray.methods.loss import ModelOutput, TaskOutput
from medray.models.adapters.frozen import without_adapter
from medray.models.forward import encoded_logits, loss_logits, packed_logits

AnyMicroBatch = MicroBatch | MixedMicroBatch | PackedMicroBatch
Frozen = Callable[[Any], AbstractContextManager[None]]
PLAIN = TokenLoss()


def loss_sums(
    model: Any,
    micro: AnyMicroBatch,
    method: MethodLoss,
    device: torch.device,
    *,
    seq2seq: bool,
    loss: TokenLoss = PLAIN,
) -> dict[str, Tensor]:
    """Run one forward pass and return the sum of each loss term of `method` over the micro-batch.

    loss: how the cross-entropy is computed. A method with a live reference runs another forward without the adapter.
    """
    reference = method.spec.reference
    known = None
    if reference is not None:
        known = (
            reference_values(model, micro, method, device, seq2seq=seq2seq, loss=loss)
            if reference.live
            else _stored(micro, device)
        )
    output = _output(model, micro, method, device, loss, seq2seq=seq2seq)
    return method.sums(replace(output, reference=known), loss)


def reference_values(
    model: Any,
    micro: AnyMicroBatch,
    method: MethodLoss,
    device: torch.device,
    *,
    seq2seq: bool,
    loss: TokenLoss = PLAIN,
    frozen: Frozen = without_adapter,
) -> Tensor:
    """Return what the frozen model gives for each row of the micro-batch, float32 [values, rows].

    Computed in evaluation mode, without gradients, and without label smoothing. frozen: makes the model the frozen one.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), frozen(model):
            output = _output(model, micro, method, device, loss.unsmoothed(), seq2seq=seq2seq)
            return method.reference_values(output, loss.unsmoothed())
    finally:
        model.train(training)


def count_loss_tokens(micro: AnyMicroBatch, method: MethodLoss) -> np.ndarray:
    """Return the number of loss tokens of each task and row of a micro-batch, int64 [tasks, rows]."""
    has_loss = micro.labels != IGNORED
    if isinstance(micro, PackedMicroBatch):
        found = np.zeros((len(method.tasks), _row_count(micro)), np.int64)
        np.add.at(found, (micro.task_ids[has_loss], micro.row_ids[has_loss]), 1)
        return found
    each, at = has_loss.sum(axis=1), 0
    sequences = _sequences(micro, method)
    found = np.zeros((len(method.tasks), max(sequences.values())), np.int64)
    for name, count in sequences.items():
        found[method.tasks.index(name), :count] = each[at : at + count]
        at += count
    return found


def _output(
    model: Any,
    micro: AnyMicroBatch,
    method: MethodLoss,
    device: torch.device,
    loss: TokenLoss,
    *,
    seq2seq: bool,
) -> ModelOutput:
    if isinstance(micro, PackedMicroBatch):
        return _packed(model, micro, method, device, loss)
    return _padded(model, micro, method, device, loss, seq2seq=seq2seq)


def _stored(micro: AnyMicroBatch, device: torch.device) -> Tensor:
    """Return the stored numbers of a micro-batch. Raises ValueError if it was made without them."""
    found = None if isinstance(micro, MicroBatch) else micro.reference
    if found is None:
        raise ValueError("the batch has no stored numbers of the reference")
    if isinstance(micro, PackedMicroBatch):
        found = found[:, : _row_count(micro)]
    return _tensors(device, found)[0]


def _row_count(micro: PackedMicroBatch) -> int:
    return int(micro.row_ids.max(initial=0)) + 1


def _tensors(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]


def _sequences(micro: MicroBatch | MixedMicroBatch, method: MethodLoss) -> dict[str, int]:
    """Return the number of sequences of each task in a padded micro-batch, in the order of the sequences."""
    if isinstance(micro, MicroBatch):
        return {micro.task: len(micro.labels)}
    counts = np.bincount(micro.task_ids, minlength=len(method.tasks)).tolist()
    return {name: count for name, count in zip(method.tasks, counts, strict=True) if count}


def _packed(
    model: Any, micro: PackedMicroBatch, method: MethodLoss, device: torch.device, loss: TokenLoss
) -> ModelOutput:
    head_loss = loss.at_head(int((micro.labels[:, 1:] != IGNORED).sum()))
    row_count, count = _row_count(micro), len(method.tasks)
    # One number per task and row. The forward sorts its targets by it: by task, then by row.
    numbers = np.where(micro.task_ids == NO_TASK, NO_TASK, micro.task_ids * row_count + micro.row_ids)
    arrays = _tensors(device, micro.input_ids, micro.position_ids, numbers, micro.labels)
    found, labels, where = packed_logits(model, *arrays, head_loss=head_loss)
    sizes = torch.bincount(where // row_count, minlength=count).tolist()
    parts = zip(
        method.tasks, found.split(sizes), labels.split(sizes), (where % row_count).split(sizes), strict=True
    )
    return ModelOutput(
        tasks={
            name: TaskOutput(
                values=values, labels=wanted, row_count=row_count, rows=rows, is_loss=head_loss is not None
            )
            for name, values, wanted, rows in parts
        }
    )


def _padded(
    model: Any,
    micro: MicroBatch | MixedMicroBatch,
    method: MethodLoss,
    device: torch.device,
    loss: TokenLoss,
    *,
    seq2seq: bool,
) -> ModelOutput:
    inputs = _tensors(device, micro.input_ids, micro.attention_mask, micro.labels)
    sequences = _sequences(micro, method)
    if method.spec.encodings is not None:
        logits, encodings = encoded_logits(model, *inputs)
        return ModelOutput(tasks=_whole(logits, inputs[2], sequences), encodings=encodings)
    head_loss = loss.at_head(_logit_places(micro.labels, seq2seq=seq2seq))
    names = [name for name, count in sequences.items() for _ in range(count)]
    found, labels = loss_logits(model, *inputs, seq2seq=seq2seq, tasks=names, head_loss=head_loss)
    if head_loss is None:
        return ModelOutput(tasks=_whole(found, labels, sequences))
    each = ((micro.labels if seq2seq else micro.labels[:, 1:]) != IGNORED).sum(axis=1)
    if not each.any():
        each[0] = 1  # the forward computes one position that has no target
    tasks, sequence, target = {}, 0, 0
    for name, count in sequences.items():
        sizes = each[sequence : sequence + count]
        end = target + int(sizes.sum())
        (rows,) = _tensors(device, np.repeat(np.arange(count), sizes))
        tasks[name] = TaskOutput(
            values=found[target:end], labels=labels[target:end], row_count=count, rows=rows, is_loss=True
        )
        sequence, target = sequence + count, end
    return ModelOutput(tasks=tasks)


def _whole(logits: Tensor, labels: Tensor, sequences: Mapping[str, int]) -> dict[str, TaskOutput]:
    """Split logits [batch, targets, vocab] and their labels by the tasks of the sequences."""
    sizes = list(sequences.values())
    parts = zip(sequences, logits.split(sizes), labels.split(sizes), strict=True)
    return {
        name: TaskOutput(values=values, labels=wanted, row_count=len(wanted))
        for name, values, wanted in parts
    }


def _logit_places(labels: np.ndarray, *, seq2seq: bool) -> int:
    """Return the number of positions with logits that `loss_logits` computes. labels: [batch, seq]."""
    if seq2seq:
        return int(labels.size)
    return len(labels) * int((labels[:, 1:] != IGNORED).any(axis=0).sum())
