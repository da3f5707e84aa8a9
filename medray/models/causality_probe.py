"""Whether a causal model sees the tokens after a position: asked of the live model, before it is trained.

Such a model sees its own labels: its loss goes to zero and it writes noise. The last token of a row is changed, and no
logit before it may move. What a masked position adds is exactly nothing, so rounding hardly matters; a mixture of
experts rounds differently with other tokens in the batch, so the same is done with a token that nothing can reach.
"""

from __future__ import annotations

from typing import Any

import torch

from medray.errors import InputError
from medray.models.forward import loss_logits, unwrap
from medray.models.packing_probe import undisturbed

_LENGTH = 8
_NOISE = 4  # times what an unreachable change moves
_ROUNDING = 1e-5  # share of the largest logit


@torch.no_grad()
def sees_ahead(model: Any, device: torch.device) -> bool:
    """True where a later token moves an earlier logit of a causal model.

    model: as it is trained, in an engine and with an adapter. All ranks must call it: forwards may be collectives.
    Training mode, gradients and random generators stay as they are.
    """
    vocabulary = unwrap(model).get_input_embeddings().num_embeddings
    rows = (29 * torch.arange(1, 2 * _LENGTH + 1, device=device) % vocabulary).view(2, _LENGTH)
    other, later = rows.clone(), rows.clone()
    other[1] = (other[1] + 17) % vocabulary
    later[0, -1] = (later[0, -1] + 17) % vocabulary
    with undisturbed(model, device):
        first, unreachable, changed = (_first_row(model, ids) for ids in (rows, other, later))
    noise, leak = (float((first - each).abs().max()) for each in (unreachable, changed))
    return leak > max(_NOISE * noise, _ROUNDING * float(first.abs().max()))


def refuse_sight_ahead(model: Any, device: torch.device) -> None:
    """Raise InputError for a causal model that sees the tokens after a position."""
    if sees_ahead(model, device):
        raise InputError(
            "in this model a token sees those after it: it would see its own labels, and not learn to write",
            key="model.name",
            value=type(unwrap(model)).__name__,
            mend="a decoder such as Llama, or an encoder-decoder such as T5 or BART",
        )


def _first_row(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """[tokens - 1, vocab]: the logits at every position of the first row but the last."""
    logits, _ = loss_logits(model, ids, torch.ones_like(ids), ids, seq2seq=False, tasks=("label", "label"))
    return logits[0].float()
