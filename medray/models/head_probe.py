"""Whether losses may stand in the place of logits: asked of the live model, before it is trained.

`forward.losses_at_head` puts the loss where a model's head is. A model that does something to its logits behind the
head (Gemma 2 caps them, Granite and Cohere scale them) would do it to losses; one that uses the weight of its head
without the module gives logits all the same. A list of architectures would go out of date; a few tokens tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medray.models.forward import losses_at_head, unwrap
from medray.models.packing_probe import undisturbed
from medray.models.prompts import drops_decoder_ids

_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 2e-2
_TOKENS = 12


@torch.no_grad()
def takes_losses(model: Any, device: torch.device, *, seq2seq: bool) -> bool:
    """True where losses may stand in the place of logits. All ranks must call it: forwards may be collectives.

    Training mode, gradients and random generators stay as they are.
    """
    head = unwrap(model).get_output_embeddings()
    if head is None or _gathers_in_pieces(head) or drops_decoder_ids(model):
        return False
    vocabulary = vocabulary_size(model)
    ids = torch.from_numpy(29 * np.arange(1, _TOKENS + 1) % vocabulary)[None].to(device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if seq2seq else {})
    labels = ids[0].flip(0)
    places = torch.arange(_TOKENS, device=device)

    def plain(forward: Callable[[Tensor], Tensor], hidden: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(forward(hidden).float(), wanted, reduction="none")

    with undisturbed(model, device):
        logits = model(**inputs, use_cache=False).logits[0]
        if len(logits) != _TOKENS:  # an adapter puts tokens of its own before the others
            return False
        wanted = F.cross_entropy(logits.float(), labels, reduction="none")
        try:
            found = losses_at_head(model, inputs, labels, places, plain)
        except (ValueError, RuntimeError, TypeError, IndexError):
            return False  # what it does with logits does not fit losses; all ranks see the same
    exact = logits.dtype == unwrap(model).get_input_embeddings().weight.dtype == torch.float32
    tolerance = (_TOLERANCE if exact else _TOLERANCE_16_BIT) * float(wanted.abs().max())
    return float((found - wanted).abs().max()) <= tolerance


def vocabulary_size(model: Any) -> int:
    """Rows of the head's weight, whole where stage 3 has sharded it."""
    inner = unwrap(model)
    head = inner.get_output_embeddings()
    return int(getattr(head, "out_features", None) or inner.config.vocab_size)


def _gathers_in_pieces(head: Any) -> bool:
    """Under stage 3 each forward of a module inside the head (an adapter's) is a collective, and ranks run as many
    as they have chunks."""
    inside = [parameter for child in head.children() for parameter in child.parameters()]
    return any(hasattr(parameter, "ds_id") for parameter in inside)
