"""One forward of one micro-batch: logits exactly where there is something to predict.

A causal model's head is a fifth of a small model's arithmetic and its logits are the largest tensor of a step
(tokens x vocabulary), yet prompts carry no loss. Sequences are padded on the left, so the columns with a target lie
together at the end and the head runs on those alone. In packed sequences targets lie everywhere: there the hidden
states are picked out place by place before they enter the head.
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
    """(logits [batch, targets, vocab], labels [batch, targets]), aligned. Shapes in: [batch, seq], see MicroBatch.

    tasks: of each row, for an adapter that tells tasks apart. head_loss: (losses [targets], labels [targets]) in
    their place, computed by it.
    """
    extra = task_inputs(model, tasks, input_ids.device)
    if seq2seq:
        if head_loss is not None:
            shown = _shown_targets(model, input_ids, attention_mask, labels)
            return _losses(model, shown | extra, labels.flatten(), head_loss)
        return _seq2seq(model, input_ids, attention_mask, labels, extra).logits, labels
    # Position t predicts label t + 1; at least one column stays, so that every rank computes something.
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
    places = columns + leading(model)
    if _keeps_logits(model):
        logits = model(**inputs, logits_to_keep=places).logits
    else:
        logits = model(**inputs).logits[:, places]
    return logits, next_labels[:, columns]


def encoded_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(logits [batch, targets, vocab], encodings [batch, hidden]) of an encoder-decoder, in one forward.

    An encoding is the mean of the encoder's last states over a row's own tokens, in float32; padding is left out.
    """
    out = _seq2seq(model, input_ids, attention_mask, labels, {})
    mask = attention_mask[..., None]
    states = out.encoder_last_hidden_state.float() * mask
    return out.logits, states.sum(dim=1) / mask.sum(dim=1)


def _seq2seq(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, extra: dict[str, Tensor]
) -> Any:
    """The output of an encoder-decoder that is shown each target up to the token that it shall write."""
    if drops_decoder_ids(model):
        return model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False, **extra
        )
    return model(**_shown_targets(model, input_ids, attention_mask, labels), **extra, use_cache=False)


def _shown_targets(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Inputs of an encoder-decoder that is shown each target up to the token that it shall write."""
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
    """(logits [targets, vocab], labels [targets], tasks [targets]) of packed sequences, ordered by task.

    Shapes in: [batch, seq], see PackedMicroBatch. No attention mask is given: transformers then finds the segments
    where position_ids restart, and lets none see another, in windows of sliding attention too; `keeps_boundaries`
    tells whether a model does. Where nothing has a label, one place that has none is left, so that every rank
    computes something. head_loss: losses [targets] in the place of logits, computed by it.
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
    if head_loss is not None:
        packed = {"input_ids": input_ids, "position_ids": position_ids}
        found = losses_at_head(model, packed, next_labels[places], places, head_loss)
        return found, next_labels[places], tasks
    with _head_at(model, places):
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    if logits.shape[:2] == (1, len(places)):
        logits = logits[0]
    else:  # the head is no module of its own
        logits = logits.flatten(0, 1)[places]
    return logits, next_labels[places], tasks


def _losses(model: Any, inputs: dict[str, Any], labels: Tensor, head_loss: HeadLoss) -> tuple[Tensor, Tensor]:
    """(losses, labels) where labels [batch * seq] has a target; of one place that has none where nothing has."""
    places = (labels != IGNORED).nonzero().flatten()
    if not len(places):
        places = torch.zeros(1, dtype=torch.long, device=labels.device)
    return losses_at_head(model, inputs, labels[places], places, head_loss), labels[places]


def losses_at_head(
    model: Any, inputs: dict[str, Any], labels: Tensor, places: Tensor, head_loss: HeadLoss
) -> Tensor:
    """Losses [places] of one forward of `inputs`, with something else in the place of the head's own forward.

    The model is run as it is, so what it does to hidden states before its head (T5 with tied weights scales them) is
    done, and so are the hooks of the head's module (by one, stage 3 gathers its weight: once, whatever stands in its
    place). What a model does to its logits would be done to losses: `head_probe.takes_losses` tells whether it does.

    labels: [places]. places: indices into [batch * seq] of the hidden states that the head reads.
    Raises ValueError where the model gives something else: its head is no module of its own.
    """
    head: Any = unwrap(model).get_output_embeddings()
    own = None if head is None else head.__dict__.get("forward")
    forward: Any = None if head is None else head.forward

    def in_place_of_the_head(hidden: Tensor) -> Tensor:
        return head_loss(forward, hidden.flatten(0, -2)[places], labels)[None, :, None]

    if head is not None:
        head.forward = in_place_of_the_head
    try:
        losses: Tensor = model(**inputs, use_cache=False).logits
    finally:
        if own is not None:
            head.forward = own
        elif head is not None:
            del head.forward
    if losses.shape != (1, len(places), 1) or losses.dtype != torch.float32:
        raise ValueError("the model does not end with its head")
    return losses[0, :, 0]


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
