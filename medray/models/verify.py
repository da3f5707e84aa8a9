"""Whether weights that were written do what they were made from: logits of both on the same rows.

Each model is loaded alone, in float32 on the CPU, so that what differs is the weights and not the arithmetic.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.models.prompts import adapter_of, drops_decoder_ids, task_inputs

ROWS, TOKENS = 4, 64  # compared; more would cost time and tell no more
# Of the root mean square of the difference to that of the logits, both without the mean of their place, which changes no
# probability. fp32 leaves the rounding of a sum in another order; 16 bits that of every weight; 4 bits are lossy by nature
# (0.3 for SmolLM2-135M on text), and only nonsense is refused.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "nf4": 0.7}


@dataclass(frozen=True)
class TokenRow:
    """ids: int [tokens], of the input. target: of an encoder-decoder int [tokens], else None."""

    ids: np.ndarray
    target: np.ndarray | None = None

    def cut(self) -> TokenRow:
        return TokenRow(self.ids[:TOKENS], None if self.target is None else self.target[:TOKENS])


@dataclass(frozen=True)
class Comparison:
    """rows: where they are from. greatest: the largest difference of two logits. relative: see TOLERANCE.

    same_token: share of places whose likeliest token is the same. effect: as `relative`, of base against base and
    adapter; None without an adapter. from_base: as `relative`, of the written weights against the base alone.
    """

    rows: str
    places: int
    dtype: str
    greatest: float
    relative: float
    same_token: float
    effect: float | None = None
    from_base: float | None = None

    @property
    def passed(self) -> bool:
        """Within the tolerance, and not nearer to the base alone than to base and adapter."""
        forgotten = self.from_base is not None and self.from_base < 0.5 * self.relative
        return self.relative <= TOLERANCE[self.dtype] and not forgotten

    def line(self) -> str:
        """For people, in one line."""
        return (
            f"logits of {self.places} places ({self.rows}): differ by {self.greatest:.2g} at most, "
            f"{self.relative:.2g} of their spread ({self.dtype}: {TOLERANCE[self.dtype]:g} is allowed); "
            f"the likeliest token is the same at {self.same_token:.1%}"
        )


@dataclass(frozen=True)
class Reference:
    """Logits of base and adapter, one [places, vocabulary] a row; bare: of the base alone, None where there is none."""

    logits: list[Tensor]
    bare: list[Tensor] | None


def reference(load: Callable[[], Any], rows: Sequence[TokenRow]) -> Reference:
    """load: gives the model, which is dropped afterwards."""
    model = load()
    found = _logits(model, rows)
    bare = None
    if hasattr(model, "peft_config") and not adapter_of(model).is_prompt_learning:
        with model.disable_adapter():
            bare = _logits(model, rows)
    del model
    gc.collect()
    return Reference(found, bare)


def compare(
    wanted: Reference, load: Callable[[], Any], rows: Sequence[TokenRow], source: str, dtype: str
) -> Comparison:
    """dtype: of the written weights. source: where the rows are from, for the line."""
    model = load()
    found = torch.cat(_logits(model, rows))
    del model
    gc.collect()
    whole = torch.cat(wanted.logits)
    bare = None if wanted.bare is None else torch.cat(wanted.bare)
    return Comparison(
        source,
        len(whole),
        dtype,
        float((found - whole).abs().max()),
        _relative(found, whole),
        float((found.argmax(-1) == whole.argmax(-1)).float().mean()),
        None if bare is None else _relative(bare, whole),
        None if bare is None else _relative(found, bare),
    )


def made_up(vocabulary: int, seq2seq: bool) -> list[TokenRow]:
    """Rows for a run that has none to validate on: ids from all over the vocabulary."""
    drawn = np.random.default_rng(0).integers(0, vocabulary, (ROWS, 2, 16))
    return [TokenRow(ids, target if seq2seq else None) for ids, target in drawn]


def _logits(model: Any, rows: Sequence[TokenRow]) -> list[Tensor]:
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(np.asarray(row.ids, np.int64))[None].to(device)
            given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if row.target is not None:
                target = torch.from_numpy(np.asarray(row.target, np.int64))[None].to(device)
                # Labels would make peft add AdaLoRA's penalty to a loss, which a model that is not trained cannot.
                given |= {"labels": target} if drops_decoder_ids(model) else {"decoder_input_ids": target}
            given |= task_inputs(model, ["label"], device)
            found.append(model(**given).logits[0].float().cpu())
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    one, other = (logits - logits.mean(-1, keepdim=True) for logits in (one, other))
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt().clamp_min(1e-12))
