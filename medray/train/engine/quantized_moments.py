"""AdamW's moments as bitsandbytes keeps them, read and set as float32: checkpoints hold moments by name in float32.

In 8 bits a moment is a code of one byte an element and a scale, the largest magnitude, for each 256 elements of the
flat tensor (Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, section 2): value = map[code] * scale.
An update reads nothing but these products. So what is put back is exact where the products are: the scale of a block
is found again from its products, and only moments that were cut into other blocks since are rounded once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
# Rounding of a product of two float32: the scale found from a product is that far off at most.
_STEPS = 4


class QuantizedSlot(dict[str, Any]):
    """The state of one tensor as torch's AdamW names it: step, exp_avg, exp_avg_sq (float32, like the tensor).

    Moments in 8 bits are copies; `put_back` writes them, and step, into the optimizer.
    """

    def __init__(self, optimizer: Any, tensor: Tensor) -> None:
        state = optimizer.state[tensor]
        if not state:
            optimizer.init_state(*_place(optimizer, tensor))
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
    """Float32 of the shape of `codes`. scales: one a block; values: those of the 256 codes, ascending."""
    flat = values[codes.reshape(-1).to(values.device).long()]
    return (flat * scales.repeat_interleave(BLOCK)[: flat.numel()]).reshape(codes.shape)


def quantize(moments: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(codes [elements], scales [blocks]) whose products are nearest to `moments`: the same, where they were products.

    The largest of a block has the last code, which is 1, or, where it is negative, the first one, which is not quite
    -1: then the scale is a quotient, and one of the numbers beside it gives the products.
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
    """The code of the nearest value, [blocks, BLOCK]."""
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return torch.bucketize(shares, (values[1:] + values[:-1]) / 2).to(torch.uint8)


def _are(blocks: Tensor, codes: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    return (values[codes.long()] * scales[:, None] == blocks).all(dim=1)


def _values(state: dict[str, Any], number: str) -> Tensor:
    kept: Tensor = state[f"state{number}"]
    if kept.dtype != torch.uint8:
        return kept
    return dequantize(kept, state[f"absmax{number}"], state[f"qmap{number}"])


def _place(optimizer: Any, tensor: Tensor) -> tuple[dict[str, Any], Tensor, int, int]:
    """What bitsandbytes calls a tensor by: (group, tensor, number of the group, number within it)."""
    for number, group in enumerate(optimizer.param_groups):
        for place, one in enumerate(group["params"]):
            if one is tensor:
                return group, one, number, place
    raise ValueError("the optimizer does not step on this tensor")
