"""The optimizer of a run, its parameter groups, and the learning rate of each step.

Both engines use this optimizer, so a group is a plain entry of `param_groups`, and ZeRO makes one flat group of each. Two
keys tell groups apart: `match`, the group's pattern, and `lr_scale`, which multiplies the current learning rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from medray.config.checks.train import paged_without_gpu
from medray.config.train import OptimizerConfig, SchedulerConfig, TrainConfig
from medray.errors import InputError

REST = ""  # the pattern of the parameters that match no group


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer over the trainable parameters of `model`. Raises InputError for a group without parameters.

    This is torch's AdamW, fused on a GPU. Offloaded state uses DeepSpeed's CPU Adam if there is a GPU and its extension
    compiles; on a machine without a GPU, compiling takes minutes and gains nothing.
    """
    options, groups = train.optimizer, parameter_groups(model, train.optimizer)
    values: dict[str, Any] = {
        "lr": options.lr,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    on_gpu = torch.cuda.is_available()
    if options.name != "adamw":
        return _of_bitsandbytes(options.name, groups, values, on_gpu=on_gpu)
    if train.offload == "cpu":
        found = _cpu_adam(groups, values) if on_gpu else None
        return found or torch.optim.AdamW(groups, **values)
    return torch.optim.AdamW(groups, **values, fused=on_gpu or None)


def parameter_groups(model: nn.Module, options: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups, in the order of the config; parameters without a group come last."""
    taken: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        index = next(
            (index for index, group in enumerate(options.groups) if re.search(group.match, name)),
            len(options.groups),
        )
        undecayed = not options.decay_norms_and_biases and _dimensions(parameter) < 2
        taken.setdefault((index, undecayed), []).append(parameter)
    for index, group in enumerate(options.groups):
        if not {(index, True), (index, False)} & taken.keys():
            raise InputError(
                "no trained parameter matches this pattern, or earlier groups have taken all that do",
                key=f"train.optimizer.groups[{index}].match",
                value=group.match,
                fix=f"use one of {', '.join(_parts_of_names(model))}, or a longer part of a name",
            )
    return [
        _group(options, index, undecayed, parameters)
        for (index, undecayed), parameters in sorted(taken.items(), key=lambda item: item[0])
    ]


def _parts_of_names(model: nn.Module) -> list[str]:
    """Return the parts of the names of trained parameters, without numbers and wrappers."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    wrappers = {"base_model", "model", "default"}
    return sorted({part for name in names for part in name.split(".") if not part.isdigit()} - wrappers)


def _group(
    options: OptimizerConfig, index: int, undecayed: bool, parameters: list[nn.Parameter]
) -> dict[str, Any]:
    scale, decay, match = 1.0, options.weight_decay, REST
    if index < len(options.groups):
        group = options.groups[index]
        match = group.match
        if group.lr is not None:
            scale = group.lr / options.lr
        elif group.lr_scale is not None:
            scale = group.lr_scale
        decay = group.weight_decay if group.weight_decay is not None else decay
    return {
        "params": parameters,
        "match": match,
        "lr_scale": scale,
        "lr": options.lr * scale,
        "weight_decay": 0.0 if undecayed else decay,
    }


def set_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Set the learning rate of each group: `lr` times the group's scale, which is 1 for parameters without a group."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]


def rates_in_force(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the optimizer's current learning rate of each group, by the group's pattern; "" for the rest."""
    return {group["match"]: float(group["lr"]) for group in groups}


def _dimensions(parameter: nn.Parameter) -> int:
    """Return the number of dimensions of a parameter before ZeRO stage 3 flattened it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _of_bitsandbytes(
    name: str, groups: list[dict[str, Any]], values: dict[str, Any], *, on_gpu: bool
) -> torch.optim.Optimizer:
    paged, bits = name.startswith("paged"), 8 if name.endswith("8bit") else 32
    if paged and not on_gpu:
        raise paged_without_gpu(name)
    from bitsandbytes.optim.adamw import AdamW

    made: torch.optim.Optimizer = AdamW(groups, **values, optim_bits=bits, is_paged=paged)
    return made


def _cpu_adam(groups: list[dict[str, Any]], values: dict[str, Any]) -> torch.optim.Optimizer | None:
    """Make DeepSpeed's CPU Adam; None if this machine cannot compile it."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.op_builder import CPUAdamBuilder

    if not CPUAdamBuilder().is_compatible(verbose=False):
        return None
    try:
        made: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, **values, adamw_mode=True)
    except (RuntimeError, OSError, ImportError):  # no compiler, or one that fails
        return None
    return made


def learning_rate(step: int, total_steps: int, peak: float, schedule: SchedulerConfig) -> float:
    """Return the learning rate of the 0-based `step`: linear warm-up to `peak`, then the schedule.

    Warm-up reaches the peak in its last step. The schedulers of transformers begin warm-up at 0, so that the first step
    trains nothing; after warm-up, they give the same rate in each step.
    """
    warmup = warmup_steps(total_steps, schedule)
    if step < warmup:
        return peak * (step + 1) / warmup
    floor = schedule.min_lr_ratio
    return peak * (floor + (1 - floor) * _course(step, warmup, total_steps, schedule))


def warmup_steps(total_steps: int, schedule: SchedulerConfig) -> int:
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return math.ceil(schedule.warmup_ratio * total_steps)


def _course(step: int, warmup: int, total_steps: int, schedule: SchedulerConfig) -> float:
    """Return the schedule's factor after warm-up: 1 at the peak, 0 at the end."""
    if schedule.name in ("constant", "constant_with_warmup"):
        return 1.0
    shape: str
    if schedule.name == "wsd":
        # Warmup-stable-decay: Hu et al. 2024 (MiniCPM), section 4; 1-sqrt: Hägele et al. 2024, section 3.
        decay = schedule.decay_steps
        if decay is None:
            decay = math.ceil(schedule.decay_ratio * total_steps)
        start = max(total_steps - decay, warmup)
        shape = schedule.decay_shape
    else:
        start, shape = warmup, schedule.name
    progress = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    if shape == "linear":
        return 1 - progress
    if shape == "1-sqrt":
        return 1 - math.sqrt(progress)
    return 0.5 * (1 + math.cos(math.pi * progress))
