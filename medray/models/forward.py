"""One forward of one micro-batch: logits exactly where there is something to predict.

A causal model's head is a fifth of a small model's arithmetic and its logits are the largest tensor of a step
(tokens x vocabulary), yet prompts carry no loss. Sequences are padded on the left, so the columns with a target lie
together at the end and the head runs on those alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100


def loss_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, *, seq2seq: bool
) -> tuple[Tensor, Tensor]:
    """(logits [batch, targets, vocab], labels [batch, targets]), aligned. Shapes in: [batch, seq], see MicroBatch."""
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
    }
    if _keeps_logits(model):
        logits = model(**inputs, logits_to_keep=columns).logits
    else:
        logits = model(**inputs).logits[:, columns]
    return logits, next_labels[:, columns]


def unwrap(model: Any) -> nn.Module:
    """The transformers model inside a DeepSpeed engine and a peft wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _config(model: Any) -> Any:
    return unwrap(model).config


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
