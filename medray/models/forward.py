"""The forward pass of one micro-batch. Logits are computed only at the positions that have a target.

The head of a small causal model takes a fifth of its arithmetic, and its logits are the largest tensor of a step
(tokens x vocabulary), but prompts have no loss. Sequences are padded on the left, so the columns with a target are
together at the end, and the head runs on those only. In packed sequences, targets can be at any position, so the hidden
states at these positions are selected before the head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medray.data.encode import IGNORED
from medray.models.adapters.virtual_tokens import drops_decoder_ids, leading, task_inputs

# (head: hidden [tokens, hidden] -> logits [tokens, vocab]; hidden [tokens, hidden]; labels [tokens]) -> losses [tokens]
HeadLoss = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


def loss_logits(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    *,
    seq2seq: bool,
    tasks: Sequence[str] = (),
    head_loss: HeadLoss | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (logits [batch, targets, vocab], labels [batch, targets]) of a micro-batch, computed only where there are
    targets.

    Inputs are [batch, seq], see MicroBatch. tasks: the task of each row, for an adapter that distinguishes tasks.
    head_loss: if given, it computes the losses at the head, and (losses [targets], labels [targets]) are returned
    instead.
    """
    extra = task_inputs(model, tasks, input_ids.device)
    if seq2seq:
        if head_loss is not None:
            shown = _shown_targets(model, input_ids, attention_mask, labels)
            return _losses(model, shown | extra, labels.flatten(), head_loss)
        return _seq2seq(model, input_ids, attention_mask, labels, extra).logits, labels
    # Position t predicts label t + 1. At least one column is kept, so that every rank computes something.
    columns = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    if not len(columns):
        columns = torch.zeros(1, dtype=torch.long, device=labels.device)
    next_labels = labels[:, 1:] if labels.shape[1] > 1 else torch.full_like(labels, IGNORED)
    positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
    inputs: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": positions,
    } | extra
    if head_loss is not None:
        return _losses(model, inputs, F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten(), head_loss)
    inputs["use_cache"] = False
    indices = columns + leading(model)
    if _keeps_logits(model):
        logits = model(**inputs, logits_to_keep=indices).logits
    else:
        logits = model(**inputs).logits[:, indices]
    return logits, next_labels[:, columns]


def encoded_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (logits [batch, targets, vocab], encodings [batch, hidden]) of an encoder-decoder from one forward pass.

    The encoding of a row is the mean of the encoder's last hidden states over its tokens, without padding, in float32.
    """
    out = _seq2seq(model, input_ids, attention_mask, labels, {})
    mask = attention_mask[..., None]
    states = out.encoder_last_hidden_state.float() * mask
    return out.logits, states.sum(dim=1) / mask.sum(dim=1)


def _seq2seq(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, extra: dict[str, Tensor]
) -> Any:
    """Return the output of an encoder-decoder whose decoder sees each target up to the token to predict."""
    if drops_decoder_ids(model):
        return model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False, **extra
        )
    return model(**_shown_targets(model, input_ids, attention_mask, labels), **extra, use_cache=False)


def _shown_targets(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the inputs of an encoder-decoder whose decoder sees each target up to the token to predict."""
    start = torch.full_like(labels[:, :1], _config(model).decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "decoder_input_ids": shifted.masked_fill(shifted == IGNORED, _config(model).pad_token_id),
    }


def packed_logits(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor,
    task_ids: Tensor,
    labels: Tensor,
    *,
    head_loss: HeadLoss | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logits [targets, vocab], labels [targets], tasks [targets]) of packed sequences, sorted by task.

    Inputs are [batch, seq], see PackedMicroBatch. No attention mask is passed: transformers then separates the
    segments where position_ids restart, also within sliding windows; `keeps_boundaries` checks that a model does this.
    If no position has a label, one position without a label is kept, so that every rank computes something. head_loss:
    if given, it computes losses [targets], which are returned instead of logits.
    """
    # Position t predicts label t + 1.
    next_labels, next_tasks = (
        F.pad(values[:, 1:], (0, 1), value=fill).flatten()
        for values, fill in ((labels, IGNORED), (task_ids, 0))
    )
    indices = (next_labels != IGNORED).nonzero().flatten()
    if not len(indices):
        indices = torch.zeros(1, dtype=torch.long, device=labels.device)
    tasks, order = next_tasks[indices].clamp_min(0).sort(stable=True)
    indices = indices[order]
    if "flash" in str(getattr(_config(model), "_attn_implementation", "")):
        # FlashAttention supports restarting positions only in a batch of one row.
        input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
    if head_loss is not None:
        packed = {"input_ids": input_ids, "position_ids": position_ids}
        found = losses_at_head(model, packed, next_labels[indices], indices, head_loss)
        return found, next_labels[indices], tasks
    with _head_at(model, indices):
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    if logits.shape[:2] == (1, len(indices)):
        logits = logits[0]
    else:  # the head is not a separate module
        logits = logits.flatten(0, 1)[indices]
    return logits, next_labels[indices], tasks


def _losses(model: Any, inputs: dict[str, Any], labels: Tensor, head_loss: HeadLoss) -> tuple[Tensor, Tensor]:
    """Return (losses, labels) at the positions of labels [batch * seq] with a target; if there is none, at one position."""
    indices = (labels != IGNORED).nonzero().flatten()
    if not len(indices):
        indices = torch.zeros(1, dtype=torch.long, device=labels.device)
    return losses_at_head(model, inputs, labels[indices], indices, head_loss), labels[indices]


def losses_at_head(
    model: Any, inputs: dict[str, Any], labels: Tensor, indices: Tensor, head_loss: HeadLoss
) -> Tensor:
    """Return losses [indices] from one forward pass of `inputs`, in which `head_loss` replaces the forward of the
    output head.

    The rest of the model runs unchanged: it may transform hidden states before its head (T5 with tied weights scales
    them), and the hooks of the head's module run once (one of them gathers the weight at stage 3). If a model
    transforms its logits, it would transform the losses: `probes.takes_losses` checks this.

    labels: [indices]. indices: indices into [batch * seq] of the hidden states that the head reads.
    Raises ValueError if the model returns something else, because its head is not a separate module.
    """
    head: Any = unwrap(model).get_output_embeddings()
    own = None if head is None else head.__dict__.get("forward")
    forward: Any = None if head is None else head.forward

    def in_place_of_the_head(hidden: Tensor) -> Tensor:
        return head_loss(forward, hidden.flatten(0, -2)[indices], labels)[None, :, None]

    if head is not None:
        head.forward = in_place_of_the_head
    try:
        losses: Tensor = model(**inputs, use_cache=False).logits
    finally:
        if own is not None:
            head.forward = own
        elif head is not None:
            del head.forward
    if losses.shape != (1, len(indices), 1) or losses.dtype != torch.float32:
        raise ValueError("the output of the model is not the output of its head")
    return losses[0, :, 0]


@contextmanager
def _head_at(model: Any, indices: Tensor) -> Iterator[None]:
    """Let the head read only the hidden states at `indices` into [batch * seq], in their order: [1, indices, hidden]."""
    head = unwrap(model).get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].flatten(0, -2)[indices][None], *inputs[1:])
    )
    try:
        yield
    finally:
        hook.remove()


def unwrap(model: Any) -> Any:
    """Return the transformers model inside a DeepSpeed engine and a peft wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _config(model: Any) -> Any:
    return unwrap(model).config


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
