"""The moments of bitsandbytes' AdamW, read and set as float32, because checkpoints store moments by name in float32.

An 8-bit moment has a one-byte code per element, and a scale (the largest magnitude) per 256 elements of the flat tensor
(Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, section 2): value = map[code] * scale. An update reads
only these products. So restoring a checkpoint is exact: the scale of a block is recomputed from its products. Only if the
blocks are cut differently than before, moments are rounded once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
# A product of two float32 is rounded, so a scale computed from it is off by at most this number of float32 steps.
_STEPS = 4


class QuantizedSlot(dict[str, Any]):
    """The state of one tensor under the names of torch's AdamW: step, exp_avg, exp_avg_sq (float32, shaped like the tensor).

    8-bit moments are dequantized copies; `put_back` writes them, and step, to the optimizer.
    """

    def __init__(self, optimizer: Any, tensor: Tensor) -> None:
        state = optimizer.state[tensor]
        if not state:
            optimizer.init_state(*_position(optimizer, tensor))
        super().__init__(
            step=state["step"],
            exp_avg=_values(state, "1"),
            exp_avg_sq=_values(state, "2"),
        )
        self._state = state

    def put_back(self) -> None:
        self._state["step"] = self["step"]
        for number, values in (("1", self["exp_avg"]), ("2", self["exp_avg_sq"])):
            kept = self._state[f"state{number}"]
            if kept.dtype == torch.uint8:
                codes, scales = quantize(values, self._state[f"qmap{number}"])
                kept.copy_(codes.reshape(kept.shape))
                self._state[f"absmax{number}"].copy_(scales)


def is_of_bitsandbytes(optimizer: Any) -> bool:
    return type(optimizer).__module__.startswith("bitsandbytes.")


def dequantize(codes: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    """Return float32 values in the shape of `codes`. scales: one per block; values: the values of the 256 codes, ascending."""
    flat = values[codes.reshape(-1).to(values.device).long()]
    return (flat * scales.repeat_interleave(BLOCK)[: flat.numel()]).reshape(codes.shape)


def quantize(moments: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes [elements], scales [blocks]) whose products are nearest to `moments`.

    They are equal to `moments` if those were such products. The largest element of a block has the last code, whose value
    is 1; if it is negative, it has the first code, whose value is not exactly -1. Then the scale is a quotient, and one
    of the float32 numbers next to it gives the products.
    """
    flat = moments.reshape(-1).float().to(values.device)
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    largest = blocks.abs().amax(dim=1)
    best = _codes(blocks, largest, values)
    scales, exact = largest.clone(), _are(blocks, best, largest, values)
    tried = [largest / values[0].abs()] if values[0] < 0 else []
    for direction in (float("inf"), 0.0):
        quotient = tried[0] if tried else largest
        for _ in range(_STEPS if tried else 0):
            quotient = torch.nextafter(quotient, torch.full_like(quotient, direction))
            tried.append(quotient)
    for scale in tried:
        codes = _codes(blocks, scale, values)
        found = _are(blocks, codes, scale, values) & ~exact
        best[found], scales[found], exact = codes[found], scale[found], exact | found
    return best.reshape(-1)[: len(flat)], scales


def _codes(blocks: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    """Return the code of the nearest value for each element, [blocks, BLOCK]."""
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return torch.bucketize(shares, (values[1:] + values[:-1]) / 2).to(torch.uint8)


def _are(blocks: Tensor, codes: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    return (values[codes.long()] * scales[:, None] == blocks).all(dim=1)


def _values(state: dict[str, Any], number: str) -> Tensor:
    kept: Tensor = state[f"state{number}"]
    if kept.dtype != torch.uint8:
        return kept
    return dequantize(kept, state[f"absmax{number}"], state[f"qmap{number}"])


def _position(optimizer: Any, tensor: Tensor) -> tuple[dict[str, Any], Tensor, int, int]:
    """Return how bitsandbytes refers to a tensor: (group, tensor, index of the group, index within the group)."""
    for number, group in enumerate(optimizer.param_groups):
        for index, one in enumerate(group["params"]):
            if one is tensor:
                return group, one, number, index
    raise ValueError("the optimizer does not update this tensor")
