"""The factor that keeps small gradients above zero in fp16 (Micikevicius et al. 2018, section 3.2), as DeepSpeed moves it.

It halves where gradients overflow, such a step is skipped, and it doubles after many that do not. Without it in the
checkpoint a run would begin again at the first factor and skip steps that it would not have skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# cur_hysteresis: overflows until the factor halves.
_COUNTS = ("cur_iter", "last_overflow_iter", "cur_hysteresis")


class LossScale:
    """All ranks skip a step together, so every rank holds the same."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler

    def tensors(self) -> dict[str, Tensor]:
        """A power of two and whole numbers below 2^24: float32 holds them as they are."""
        return {name: torch.tensor([float(getattr(self._scaler, name))]) for name in ("cur_scale", *_COUNTS)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._scaler.cur_scale = tensors["cur_scale"].item()
        for name in _COUNTS:
            setattr(self._scaler, name, int(tensors[name].item()))


def loss_scale(optimizer: Any) -> LossScale | None:
    """Of a ZeRO optimizer in fp16; None for every other."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return LossScale(scaler) if getattr(scaler, "dynamic", False) else None
