"""What an engine trains, by name: each rank's runs of each parameter, with the optimizer's moments of them.

ZeRO gives a rank a run of elements of a parameter, seen flat: all of them at stage 0, what its partition of the flat
group happens to cover at stages 1 and 2, an equal share at stage 3. Runs are named by parameter and place, so what one
number of ranks and one stage has written, another reads, without a conversion in between and without the frozen base.
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
EXTRA = "extra"  # the kind of what is beside them

# (kind, parameter, first element, element behind the last) -> float32 values
Read = Callable[[str, str, int, int], Tensor]


class Beside(Protocol):
    """State that every rank holds alike and that is neither weight nor moment. Names and shapes never change."""

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


class Slice(Protocol):
    """Elements start to stop of one parameter, seen flat. The weight is the float32 master copy where there is one."""

    name: str
    start: int
    stop: int

    def get(self, kind: str) -> Tensor:
        """The elements, [stop - start] on the engine's device or the host; may be a view."""

    def set(self, kind: str, values: Tensor) -> None: ...


@dataclass
class TrainState:
    """The runs that this rank holds. replicated: every rank holds all of every parameter."""

    runs: list[Slice]
    replicated: bool
    _slots: list[dict[str, Any]]  # of the optimizer, one a tensor that it steps on
    _publish: Callable[[], None]  # makes what forwards read follow the runs
    beside: Beside | None = None

    @property
    def optimizer_step(self) -> float:
        return float(self._slots[0]["step"]) if self._slots else 0.0

    def load(self, read: Read, optimizer_step: float) -> None:
        """Collective: weights and moments become what `read` gives, on all ranks."""
        with torch.no_grad():
            for run in self.runs:
                for kind in KINDS:
                    run.set(kind, read(kind, run.name, run.start, run.stop))
            for slot in self._slots:
                if isinstance(slot["step"], Tensor):
                    slot["step"].fill_(optimizer_step)
                else:
                    slot["step"] = int(optimizer_step)
                if isinstance(slot, QuantizedSlot):
                    slot.put_back()
            self._publish()
            if self.beside:
                self.beside.load(
                    {
                        name: read(EXTRA, name, 0, one.numel()).reshape(one.shape)
                        for name, one in self.beside.tensors().items()
                    }
                )


def train_state(model: Any, optimizer: Any, beside: Beside | None = None) -> TrainState:
    """The state of a torch model with its optimizer, or of a DeepSpeed engine with its ZeRO optimizer.

    beside: goes with it.
    """
    return replace(_trained(model, optimizer), beside=beside)


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
    """Stage 0 in 16 bits: every rank steps on a float32 copy of each whole parameter."""
    pairs = [
        pair
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        for pair in zip(low, high, strict=True)
    ]
    copies = {id(low): high for low, high in pairs}
    masters = [copies[id(one)] for _, one in named]
    slots = [_slot(optimizer.optimizer, one) for one in masters]
    runs: list[Slice] = [
        _Whole(name, master, slot) for (name, _), master, slot in zip(named, masters, slots, strict=True)
    ]

    def publish() -> None:
        for low, high in pairs:
            low.data.copy_(high)

    return TrainState(runs, True, slots, publish)


class _Whole:
    def __init__(self, name: str, parameter: Tensor, slot: dict[str, Any]) -> None:
        self.name, self.start, self.stop = name, 0, parameter.numel()
        self._tensors = {WEIGHT: parameter, **slot}

    def get(self, kind: str) -> Tensor:
        return self._tensors[kind].detach().reshape(-1)

    def set(self, kind: str, values: Tensor) -> None:
        self._tensors[kind].data.copy_(values.reshape(self._tensors[kind].shape))


def _partitioned(named: list[tuple[str, Any]], optimizer: Any) -> TrainState:
    """Stages 1 and 2, and DeepSpeed's bf16 optimizer: a rank steps on one piece of each flat group."""
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    if flats is None:
        flats = optimizer.fp32_groups_flat_partition
    slots = [_slot(optimizer.optimizer, flat) for flat in flats]
    runs: list[Slice] = []
    for name, parameter in named:
        mapping = parameter._hp_mapping
        if mapping is not None:  # else no element of it is this rank's
            group, place = mapping.param_group_index, mapping.hp_fragment_address
            runs.append(
                _Part(name, mapping.lp_fragment_address.start, place, {WEIGHT: flats[group], **slots[group]})
            )
    return TrainState(runs, False, slots, optimizer.update_lp_params)


class _Part:
    def __init__(self, name: str, start: int, place: Any, flats: dict[str, Any]) -> None:
        self.name, self.start, self.stop = name, start, start + place.numel
        self._begin, self._flats = place.start, flats

    def get(self, kind: str) -> Tensor:
        found: Tensor = self._flats[kind].detach().narrow(0, self._begin, self.stop - self.start)
        return found

    def set(self, kind: str, values: Tensor) -> None:
        self.get(kind).copy_(values)


def _sharded(named: list[tuple[str, Any]], optimizer: Any) -> TrainState:
    """Stage 3: a rank has an equal share of each parameter, the last ones filled up with what is no element."""
    slots = [_slot(optimizer.optimizer, flat) for flat in optimizer.fp32_partitioned_groups_flat]
    rank = torch.distributed.get_rank()
    runs: list[Slice] = [_Share(name, parameter, rank) for name, parameter in named]
    parameters = [parameter for _, parameter in named]

    def publish() -> None:
        optimizer.checkpoint_event_prologue()  # small parameters are whole on every rank
        for parameter, run in zip(parameters, runs, strict=True):
            parameter.ds_tensor.data[: run.stop - run.start].copy_(run.get(WEIGHT))
        optimizer.checkpoint_event_epilogue()

    return TrainState(runs, False, slots, publish)


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
    """The optimizer's state of one tensor, made where no step has made it yet."""
    if is_of_bitsandbytes(optimizer):
        return QuantizedSlot(optimizer, tensor)
    slot: dict[str, Any] = optimizer.state[tensor]
    if not slot:
        zero = torch.zeros((), device=tensor.device if optimizer.defaults.get("fused") else "cpu")
        slot["step"] = zero if isinstance(optimizer, torch.optim.AdamW) else 0
        slot.update({kind: torch.zeros_like(tensor.detach()) for kind in MOMENTS})
    return slot
