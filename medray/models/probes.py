"""Probes: small forward passes before training that find out what a model does.

They answer three questions: does the model keep packed rows apart, does a token see later tokens, and can the model
return losses instead of logits? A list of architectures would become outdated: each model builds its own masks,
recurrent and convolutional layers have none, and some models read no position ids. So packing is tested by two
measurements on a few tokens: a document's logits are the same when it is packed and alone, and they do not change when
the document before it changes. The second test is sharper, because it does not depend on rounding: a masked position
adds exactly nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medray.data.batching.collate import collate_packed
from medray.errors import InputError
from medray.models.adapters.virtual_tokens import drops_decoder_ids
from medray.models.forward import loss_logits, losses_at_head, packed_logits, unwrap

_LENGTHS = (5, 7, 8)
# The share of the largest logit that rounding may change. The value of float32 allows for TF32.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
_ROUNDING_16_BIT = 5e-2
# A mixture of experts rounds differently if other tokens of the batch change. A document in a different row, which cannot
# see the change, shows how much: up to this multiple of it is not a leak.
_NOISE = 4

_LENGTH = 8
_LEAK_NOISE = 4  # a multiple of the effect of a change that the row cannot see
_LEAK_SHARE = 1e-5  # share of the largest logit
_TOKENS = 12


@torch.no_grad()
def keeps_boundaries(model: Any, device: torch.device) -> bool:
    """Return whether packed documents get the same logits as the same documents alone.

    model: as in training, in an engine and with an adapter. All ranks must call this, because forward passes may be
    collective. Training mode, gradients and random generators do not change.
    """
    if "position_ids" not in inspect.signature(unwrap(model).forward).parameters:
        return False
    first, second, third = (_document(model, length, start) for start, length in enumerate(_LENGTHS))
    other = _document(model, _LENGTHS[0], start=len(_LENGTHS))
    with undisturbed(model, device):
        packed = _logits(model, device, [[first, second], [third]])
        changed = _logits(model, device, [[other, second], [third]])
        alone = torch.cat([_logits(model, device, [[document]]) for document in (first, second, third)])
    sizes = [length - 1 for length in _LENGTHS]  # the first token of a document has no label
    _, leak, noise = (_largest(part) for part in (packed - changed).split(sizes))
    tolerance = _rounding(model, packed) * _largest(alone)
    return leak <= min(_NOISE * noise, tolerance) and _largest(packed - alone) <= tolerance


def _document(model: Any, length: int, start: int) -> np.ndarray:
    """Return a document of arbitrary tokens, which differ for each `start`."""
    vocabulary = unwrap(model).get_input_embeddings().num_embeddings
    tokens: np.ndarray = (17 * start + 29 * np.arange(1, length + 1)) % vocabulary
    return tokens


def _logits(model: Any, device: torch.device, sequences: list[list[np.ndarray]]) -> Tensor:
    """Return the logits [targets, vocab] of all documents, in order."""
    micro = collate_packed([[(0, ids, ids) for ids in sequence] for sequence in sequences], pad_id=0)
    arrays = (micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
    logits, _, _ = packed_logits(model, *(torch.from_numpy(array).to(device) for array in arrays))
    return logits


def _largest(values: Tensor) -> float:
    return float(values.float().abs().max())


def _rounding(model: Any, logits: Tensor) -> float:
    """Return the rounding of the coarser of two types, the weights' and the logits': logits are often cast to float32."""
    weights = unwrap(model).get_input_embeddings().weight.dtype
    return max(_ROUNDING.get(dtype, _ROUNDING_16_BIT) for dtype in (weights, logits.dtype))


@contextmanager
def undisturbed(model: Any, device: torch.device) -> Iterator[None]:
    """Put the model into evaluation mode inside the block, and restore its modes and the random generators afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@torch.no_grad()
def sees_ahead(model: Any, device: torch.device) -> bool:
    """Return whether a causal model sees ahead: whether a later token changes an earlier logit.

    model: as in training, in an engine and with an adapter. All ranks must call this, because forward passes may be
    collective. Training mode, gradients and random generators do not change.
    """
    vocabulary = unwrap(model).get_input_embeddings().num_embeddings
    rows = (29 * torch.arange(1, 2 * _LENGTH + 1, device=device) % vocabulary).view(2, _LENGTH)
    other, later = rows.clone(), rows.clone()
    other[1] = (other[1] + 17) % vocabulary
    later[0, -1] = (later[0, -1] + 17) % vocabulary
    with undisturbed(model, device):
        first, unreachable, changed = (_first_row(model, ids) for ids in (rows, other, later))
    noise, leak = (float((first - each).abs().max()) for each in (unreachable, changed))
    return leak > max(_LEAK_NOISE * noise, _LEAK_SHARE * float(first.abs().max()))


def refuse_sight_ahead(model: Any, device: torch.device) -> None:
    """Raise InputError if a causal model sees later tokens, because it would then see its own labels."""
    if sees_ahead(model, device):
        raise InputError(
            "each token of this model sees later tokens, so in training the model would see its labels and learn nothing",
            key="model.name",
            value=type(unwrap(model)).__name__,
            fix="use a decoder such as Llama, or an encoder-decoder such as T5 or BART",
        )


def _first_row(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits [tokens - 1, vocab] of the first row at all positions except the last."""
    logits, _ = loss_logits(model, ids, torch.ones_like(ids), ids, seq2seq=False, tasks=("label", "label"))
    return logits[0].float()


_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 2e-2


@torch.no_grad()
def takes_losses(model: Any, device: torch.device, *, seq2seq: bool) -> bool:
    """Return whether the model can compute losses at its head instead of logits, see `forward.losses_at_head`.

    All ranks must call this, because forward passes may be collective. Training mode, gradients and random generators
    do not change.
    """
    head = unwrap(model).get_output_embeddings()
    if head is None or _gathers_in_pieces(head) or drops_decoder_ids(model):
        return False
    vocabulary = vocabulary_size(model)
    ids = torch.from_numpy(29 * np.arange(1, _TOKENS + 1) % vocabulary)[None].to(device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if seq2seq else {})
    labels = ids[0].flip(0)
    indices = torch.arange(_TOKENS, device=device)

    def plain(forward: Callable[[Tensor], Tensor], hidden: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(forward(hidden).float(), wanted, reduction="none")

    with undisturbed(model, device):
        logits = model(**inputs, use_cache=False).logits[0]
        if len(logits) != _TOKENS:  # an adapter puts virtual tokens before the others
            return False
        wanted = F.cross_entropy(logits.float(), labels, reduction="none")
        try:
            found = losses_at_head(model, inputs, labels, indices, plain)
        except (ValueError, RuntimeError, TypeError, IndexError):
            return False  # the model uses its logits in a way that losses do not allow; all ranks fail the same way
    exact = logits.dtype == unwrap(model).get_input_embeddings().weight.dtype == torch.float32
    tolerance = (_TOLERANCE if exact else _TOLERANCE_16_BIT) * float(wanted.abs().max())
    return float((found - wanted).abs().max()) <= tolerance


def vocabulary_size(model: Any) -> int:
    """Return the size of the vocabulary: the rows of the head's weight, also if ZeRO stage 3 has sharded it."""
    inner = unwrap(model)
    head = inner.get_output_embeddings()
    return int(getattr(head, "out_features", None) or inner.config.vocab_size)


def _gathers_in_pieces(head: Any) -> bool:
    """Return whether the head contains modules (of an adapter) with parameters that stage 3 shards.

    Each forward pass of such a module is collective, but the number of passes depends on a rank's number of chunks.
    """
    inside = [parameter for child in head.children() for parameter in child.parameters()]
    return any(hasattr(parameter, "ds_id") for parameter in inside)
