"""The model states of a training run in bytes per worker. `phases.py` adds everything else.

Model states under ZeRO (Rajbhandari et al. 2020, section 3) with Adam, for P parameters of which T are trained, on N
workers. A frozen parameter has weights only.

| bytes | 16-bit run | 32-bit run |
|---|---|---|
| weights | 2 P | 4 P |
| gradients | 2 T (4 T if they are summed in float32) | 4 T |
| optimizer: float32 master copy and two moments | 12 T | 8 T at stage 0, 12 T from stage 1 on |

DeepSpeed 0.19.8 also clones the trained weights as its master copy at stages 1 to 3 of float32 runs (see
`stage_1_and_2.py` and `stage3.py`; confirmed on CPU by comparing the tensors' addresses); plain torch and stage 0 do not.

| stage | divided by N |
|---|---|
| 0 | nothing |
| 1 | optimizer |
| 2 | optimizer, gradients |
| 3 | optimizer, gradients, weights; but the layer being computed is gathered, with its gradient |

Offload moves the optimizer, and from stage 2 on the gradients (4 bytes each at stage 2), to host memory; stage 1 keeps
all gradients on the device and a float32 share of them on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

GIGABYTE = 10**9
Offload = Literal["none", "optimizer", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """The bytes of one worker on its device, by part, and in `host` the part that offload moved to host memory.

    gathered: weights and gradient of the layer that stage 3 gathers for computing.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int = 0
    activations: int = 0
    logits: int = 0
    host: int = 0

    @property
    def device(self) -> int:
        """Return the bytes on the worker's device: GPU memory, or the node's memory without a GPU."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.logits

    @property
    def total(self) -> int:
        """Return all bytes of one worker, on the device and in host memory."""
        return self.device + self.host

    def describe(self) -> str:
        """Return one line for people, in GB of 10^9 bytes, without parts that are zero."""
        parts = (
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("gathered layer", self.gathered),
            ("activations", self.activations),
            ("logits", self.logits),
        )
        named = " + ".join(f"{name} {gigabytes(size)}" for name, size in parts if size)
        host = f"; {gigabytes(self.host)} GB of host memory" if self.host else ""
        return f"{gigabytes(self.device)} GB per worker: {named}{host}"


def gigabytes(size: int) -> str:
    """Format `size` bytes in GB of 10^9 bytes, with three significant digits: 0.00123, 5.57, 140, 1,120."""
    value = size / GIGABYTE
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def zero_bytes(
    total: int,
    trainable: int,
    *,
    stage: int,
    world_size: int,
    weight_bytes: int = 2,
    offload: Offload = "none",
    largest_layer: int = 0,
    gradient_bytes: int | None = None,
    activations: int = 0,
    logits: int = 0,
) -> MemoryPlan:
    """Return the memory of one of `world_size` workers that train `trainable` of `total` parameters with Adam.

    weight_bytes: 2 for bf16 and fp16, 4 for fp32. gradient_bytes: bytes per gradient; None: as weight_bytes. offload:
    `optimizer` moves optimizer state, and gradients from stage 2 on, to the host; `cpu` (`train.offload: cpu`) also moves
    the weights of stage 3. largest_layer: parameters of the largest layer, which stage 3 gathers. activations, logits:
    bytes that are copied into the plan.

    Raises ValueError for numbers that are impossible.
    """
    _check(total, trainable, stage, world_size, weight_bytes, offload)
    each_gradient = weight_bytes if gradient_bytes is None else gradient_bytes
    master = 4 if weight_bytes == 2 or stage >= 1 else 0
    weights = _share(weight_bytes * total, world_size if stage >= 3 else 1)
    gradients = _share(each_gradient * trainable, world_size if stage >= 2 else 1)
    optimizer = _share((8 + master) * trainable, world_size if stage >= 1 else 1)
    plan = MemoryPlan(
        weights=weights, gradients=gradients, optimizer=optimizer, activations=activations, logits=logits
    )
    if stage == 3:
        plan = replace(plan, gathered=(weight_bytes + (weight_bytes if trainable else 0)) * largest_layer)
    if offload == "none":
        return plan
    host = optimizer + (gradients if stage == 3 else _share(4 * trainable, world_size))
    plan = replace(plan, optimizer=0, gradients=gradients if stage == 1 else 0, host=host)
    if offload == "cpu" and stage == 3:
        plan = replace(plan, weights=0, host=host + weights)
    return plan


def _share(size: int, parts: int) -> int:
    return -(-size // parts)


def _check(total: int, trainable: int, stage: int, world_size: int, weight_bytes: int, offload: str) -> None:
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO stage {stage}: must be 0, 1, 2 or 3")
    if world_size < 1:
        raise ValueError(f"{world_size} workers: there must be at least 1")
    if weight_bytes not in (2, 4):
        raise ValueError(f"{weight_bytes} bytes per weight: must be 2 (bf16, fp16) or 4 (fp32)")
    if not 0 <= trainable <= total or total < 1:
        raise ValueError(f"{trainable:,} of {total:,} parameters cannot be trained")
    if offload not in ("none", "optimizer", "cpu"):
        raise ValueError(f"offload {offload!r}: must be none, optimizer or cpu")
    if offload != "none" and stage == 0:
        raise ValueError("offload needs ZeRO stage 1, 2 or 3: at stage 0, DeepSpeed has no state to move")
