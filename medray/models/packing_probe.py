"""Whether a model keeps the boundaries between packed documents: asked of the live model, before it is trained.

A list of architectures would go out of date: masks are built by each model's own code, recurrent and convolutional
layers see none, and some read no position ids. So two things are measured on a few tokens. A document's logits are
the same packed and alone; and they do not change when the document before it does. The second is the sharper one: it
does not depend on rounding, because a place that is masked adds exactly nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.data.batches import collate_packed
from medray.models.forward import packed_logits, unwrap

_LENGTHS = (5, 7, 8)
# Share of the largest logit that rounding may change: float32 leaves room for TF32.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
_ROUNDING_16_BIT = 5e-2
# A mixture of experts rounds differently with other tokens in the batch: so many times what a document in another row
# shows, which nothing can reach, is still no leak.
_NOISE = 4


@torch.no_grad()
def keeps_boundaries(model: Any, device: torch.device) -> bool:
    """True where packed documents get the logits that they get alone.

    model: as it is trained, in an engine and with an adapter. All ranks must call it: forwards may be collectives.
    Training mode, gradients and random generators stay as they are.
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
    """Some tokens, others for each `start`."""
    vocabulary = unwrap(model).get_input_embeddings().num_embeddings
    return (17 * start + 29 * np.arange(1, length + 1)) % vocabulary


def _logits(model: Any, device: torch.device, sequences: list[list[np.ndarray]]) -> Tensor:
    """[targets, vocab] of all documents, in order."""
    micro = collate_packed([[(0, ids, ids) for ids in sequence] for sequence in sequences], pad_id=0)
    arrays = (micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
    logits, _, _ = packed_logits(model, *(torch.from_numpy(array).to(device) for array in arrays))
    return logits


def _largest(values: Tensor) -> float:
    return float(values.float().abs().max())


def _rounding(model: Any, logits: Tensor) -> float:
    """Of the coarser of the weights' and the logits' types: logits are often raised to float32."""
    weights = unwrap(model).get_input_embeddings().weight.dtype
    return max(_ROUNDING.get(dtype, _ROUNDING_16_BIT) for dtype in (weights, logits.dtype))


@contextmanager
def undisturbed(model: Any, device: torch.device) -> Iterator[None]:
    """Evaluation mode, without a trace of it afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
