"""The training state of an engine by name: each rank's slice of each trained parameter, with its optimizer moments.

ZeRO gives a rank a slice of each flattened parameter: all elements at stage 0, the elements in its partition of the flat
group at stages 1 and 2, an equal share at stage 3. A slice is identified by its parameter and position. So a checkpoint can
be read with a different number of ranks or a different stage than it was written with, without a conversion, and it
does not contain the frozen base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medray.train.engine.quantized_moments import QuantizedSlot, is_of_bitsandbytes

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)
EXTRA = "extra"  # the kind of `ExtraState`

# (kind, parameter, index of the first element, index after the last one) -> float32 values
Read = Callable[[str, str, int, int], Tensor]


class ExtraState(Protocol):
    """State that is neither weight nor moment, and the same on every rank. Names and shapes never change."""

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


class Slice(Protocol):
    """Elements start to stop of one flattened parameter. The weight is the float32 master copy, if there is one."""

    name: str
    start: int
    stop: int

    def get(self, kind: str) -> Tensor:
        """Return the elements, [stop - start], on the engine's device or the host. They may be a view."""

    def set(self, kind: str, values: Tensor) -> None: ...


@dataclass
class TrainState:
    """The parameter slices of this rank. replicated: every rank holds every parameter in full."""

    slices: list[Slice]
    replicated: bool
    _slots: list[dict[str, Any]]  # the optimizer's state, one per tensor that it updates
    _publish: Callable[[], None]  # copies the slices to the weights that the forward pass reads
    extra: ExtraState | None = None

    @property
    def optimizer_step(self) -> float:
        return float(self._slots[0]["step"]) if self._slots else 0.0

    def load_weights(self, read: Read) -> None:
        """Set the weights to what `read` returns, and leave moments and extra state as they are. Collective."""
        with torch.no_grad():
            for part in self.slices:
                part.set(WEIGHT, read(WEIGHT, part.name, part.start, part.stop))
            self._publish()

    def load(self, read: Read, optimizer_step: float) -> None:
        """Set weights, moments and extra state to what `read` returns. Collective."""
        with torch.no_grad():
            for part in self.slices:
                for kind in KINDS:
                    part.set(kind, read(kind, part.name, part.start, part.stop))
            for slot in self._slots:
                if isinstance(slot["step"], Tensor):
                    slot["step"].fill_(optimizer_step)
                else:
                    slot["step"] = int(optimizer_step)
                if isinstance(slot, QuantizedSlot):
                    slot.put_back()
            self._publish()
            if self.extra:
                self.extra.load(
                    {
                        name: read(EXTRA, name, 0, one.numel()).reshape(one.shape)
                        for name, one in self.extra.tensors().items()
                    }
                )


def train_state(model: Any, optimizer: Any, extra: ExtraState | None = None) -> TrainState:
    """Return the state of a torch model with its optimizer, or of a DeepSpeed engine with its ZeRO optimizer.

    extra: state to save and load with it.
    """
    return replace(_trained(model, optimizer), extra=extra)


def _trained(model: Any, optimizer: Any) -> TrainState:
    inner: nn.Module = getattr(model, "module", model)
    named = [(name, one) for name, one in inner.named_parameters() if one.requires_grad]
    if any(hasattr(one, "ds_id") for _, one in named):
        return _sharded(named, optimizer)
    if isinstance(optimizer, torch.optim.Optimizer):
        slots = [_slot(optimizer, one) for _, one in named]
        whole: list[Slice] = [_Whole(name, one, slot) for (name, one), slot in zip(named, slots, strict=True)]
        return TrainState(whole, True, slots, lambda: None)
    if hasattr(optimizer, "fp32_groups"):
        return _copied(named, optimizer)
    return _partitioned(named, optimizer)


def _copied(named: list[tuple[str, Any]], optimizer: Any) -> TrainState:
    """Return the state at stage 0 in 16 bits: every rank updates a float32 copy of each full parameter."""
    pairs = [
        pair
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        for pair in zip(low, high, strict=True)
    ]
    copies = {id(low): high for low, high in pairs}
    masters = [copies[id(one)] for _, one in named]
    slots = [_slot(optimizer.optimizer, one) for one in masters]
    slices: list[Slice] = [
        _Whole(name, master, slot) for (name, _), master, slot in zip(named, masters, slots, strict=True)
    ]

    def publish() -> None:
        for low, high in pairs:
            low.data.copy_(high)

    return TrainState(slices, True, slots, publish)


class _Whole:
    def __init__(self, name: str, parameter: Tensor, slot: dict[str, Any]) -> None:
        self.name, self.start, self.stop = name, 0, parameter.numel()
        self._tensors = {WEIGHT: parameter, **slot}

    def get(self, kind: str) -> Tensor:
        found: Tensor = self._tensors[kind].detach().reshape(-1)
        return found

    def set(self, kind: str, values: Tensor) -> None:
        self._tensors[kind].data.copy_(values.reshape(self._tensors[kind].shape))


def _partitioned(named: list[tuple[str, Any]], optimizer: Any) -> TrainState:
    """Return the state at stages 1 and 2, and of DeepSpeed's bf16 optimizer: a rank updates one part of each flat group."""
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    if flats is None:
        flats = optimizer.fp32_groups_flat_partition
    slots = [_slot(optimizer.optimizer, flat) for flat in flats]
    slices: list[Slice] = []
    for name, parameter in named:
        mapping = parameter._hp_mapping
        if mapping is not None:  # else this rank has no element of it
            group, address = mapping.param_group_index, mapping.hp_fragment_address
            slices.append(
                _Part(
                    name, mapping.lp_fragment_address.start, address, {WEIGHT: flats[group], **slots[group]}
                )
            )
    return TrainState(slices, False, slots, optimizer.update_lp_params)


class _Part:
    def __init__(self, name: str, start: int, address: Any, flats: dict[str, Any]) -> None:
        self.name, self.start, self.stop = name, start, start + address.numel
        self._begin, self._flats = address.start, flats

    def get(self, kind: str) -> Tensor:
        found: Tensor = self._flats[kind].detach().narrow(0, self._begin, self.stop - self.start)
        return found

    def set(self, kind: str, values: Tensor) -> None:
        self.get(kind).copy_(values)


def _sharded(named: list[tuple[str, Any]], optimizer: Any) -> TrainState:
    """Return the state at stage 3: a rank has an equal share of each parameter, and the last shares are padded."""
    slots = [_slot(optimizer.optimizer, flat) for flat in optimizer.fp32_partitioned_groups_flat]
    rank = torch.distributed.get_rank()
    slices: list[Slice] = [_Share(name, parameter, rank) for name, parameter in named]
    parameters = [parameter for _, parameter in named]

    def publish() -> None:
        optimizer.checkpoint_event_prologue()  # stage 3 keeps small parameters in full on every rank
        for parameter, part in zip(parameters, slices, strict=True):
            parameter.ds_tensor.data[: part.stop - part.start].copy_(part.get(WEIGHT))
        optimizer.checkpoint_event_epilogue()

    return TrainState(slices, False, slots, publish)


class _Share:
    def __init__(self, name: str, parameter: Any, rank: int) -> None:
        share = parameter.ds_tensor.ds_numel
        self.name, self._parameter = name, parameter
        self.start = min(rank * share, parameter.ds_numel)
        self.stop = min(self.start + share, parameter.ds_numel)

    def get(self, kind: str) -> Tensor:
        return self._all(kind)[: self.stop - self.start]

    def set(self, kind: str, values: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        filled = self._all(kind).clone()
        filled[: self.stop - self.start].copy_(values)
        if kind == WEIGHT:
            safe_set_local_fp32_param(self._parameter, filled)
        else:
            safe_set_local_optimizer_state(self._parameter, filled, kind)

    def _all(self, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        found: Tensor = (
            safe_get_local_fp32_param(self._parameter)
            if kind == WEIGHT
            else safe_get_local_optimizer_state(self._parameter, kind)
        )
        return found.detach().reshape(-1)


def _slot(optimizer: Any, tensor: Tensor) -> dict[str, Any]:
    """Return the optimizer's state of one tensor. If no step has created it yet, create it."""
    if is_of_bitsandbytes(optimizer):
        return QuantizedSlot(optimizer, tensor)
    slot: dict[str, Any] = optimizer.state[tensor]
    if not slot:
        zero = torch.zeros((), device=tensor.device if optimizer.defaults.get("fused") else "cpu")
        slot["step"] = zero if isinstance(optimizer, torch.optim.AdamW) else 0
        slot.update({kind: torch.zeros_like(tensor.detach()) for kind in MOMENTS})
    return slot
