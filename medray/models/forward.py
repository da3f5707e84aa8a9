"""One forward of one micro-batch: logits exactly where there is something to predict.

A causal model's head is a fifth of a small model's arithmetic and its logits are the largest tensor of a step
(tokens x vocabulary), yet prompts carry no loss. Sequences are padded on the left, so the columns with a target lie
together at the end and the head runs on those alone. In packed sequences targets lie everywhere: there the hidden
states are picked out place by place before they enter the head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medray.models.prompts import drops_decoder_ids, leading, task_inputs

IGNORED = -100


def loss_logits(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    *,
    seq2seq: bool,
    task: str = "label",
) -> tuple[Tensor, Tensor]:
    """(logits [batch, targets, vocab], labels [batch, targets]), aligned. Shapes in: [batch, seq], see MicroBatch.

    task: of the batch, for an adapter that tells tasks apart.
    """
    extra: dict[str, Any] = task_inputs(model, task, len(input_ids), input_ids.device)
    if seq2seq and drops_decoder_ids(model):
        out = model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False, **extra
        )
        return out.logits, labels
    if seq2seq:
        start = torch.full_like(labels[:, :1], _config(model).decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        decoder_input_ids = shifted.masked_fill(shifted == IGNORED, _config(model).pad_token_id)
        out = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        return out.logits, labels
    # Position t predicts label t + 1; at least one column stays, so that every rank computes something.
    columns = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    if not len(columns):
        columns = torch.zeros(1, dtype=torch.long, device=labels.device)
    next_labels = labels[:, 1:] if labels.shape[1] > 1 else torch.full_like(labels, IGNORED)
    positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": positions,
        "use_cache": False,
    } | extra
    places = columns + leading(model)
    if _keeps_logits(model):
        logits = model(**inputs, logits_to_keep=places).logits
    else:
        logits = model(**inputs).logits[:, places]
    return logits, next_labels[:, columns]


def packed_logits(
    model: Any, input_ids: Tensor, position_ids: Tensor, task_ids: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [targets, vocab], labels [targets], tasks [targets]) of packed sequences, ordered by task.

    Shapes in: [batch, seq], see PackedMicroBatch. No attention mask is given: transformers then finds the segments
    where position_ids restart, and lets none see another, in windows of sliding attention too; `keeps_boundaries`
    tells whether a model does. Where nothing has a label, one place that has none is left, so that every rank
    computes something.
    """
    # Position t predicts label t + 1.
    next_labels, next_tasks = (
        F.pad(values[:, 1:], (0, 1), value=fill).flatten()
        for values, fill in ((labels, IGNORED), (task_ids, 0))
    )
    places = (next_labels != IGNORED).nonzero().flatten()
    if not len(places):
        places = torch.zeros(1, dtype=torch.long, device=labels.device)
    tasks, order = next_tasks[places].clamp_min(0).sort(stable=True)
    places = places[order]
    if "flash" in str(getattr(_config(model), "_attn_implementation", "")):
        # FlashAttention reads restarting positions in a batch of one row only.
        input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
    with _head_at(model, places):
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    if logits.shape[:2] == (1, len(places)):
        logits = logits[0]
    else:  # the head is no module of its own
        logits = logits.flatten(0, 1)[places]
    return logits, next_labels[places], tasks


@contextmanager
def _head_at(model: Any, places: Tensor) -> Iterator[None]:
    """The head reads the hidden states of `places`, indices into [batch * seq], in their order: [1, places, hidden]."""
    head = unwrap(model).get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].flatten(0, -2)[places][None], *inputs[1:])
    )
    try:
        yield
    finally:
        hook.remove()


def unwrap(model: Any) -> Any:
    """The transformers model inside a DeepSpeed engine and a peft wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _config(model: Any) -> Any:
    return unwrap(model).config


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
