"""AdaLoRA (Zhang et al. 2023): the update of a layer is P diag(E) Q, and ranks move to the layers that need them most.

After every optimizer step, the importance of each singular value is smoothed (equations 9 to 11). The least important
ones in the whole model are set to zero (equation 12). Their number follows a cubic schedule: from `init_rank` per
layer after `tinit` steps to `target_rank` on average, `tfinal` steps before the end. After that, the remaining ones
are kept.

Importance needs full gradients, so it is computed between the optimizer's step and the clearing of gradients. peft
keeps its sums in plain dicts that are not part of a state dict: `RankAllocation` adds them to a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medray.config.peft import PeftConfig

_SUMS = ("exp_avg_ipt", "exp_avg_unc")


def adalora_config(peft: PeftConfig, targets: Any, task: Any, total_steps: int) -> Any:
    """Return peft's AdaLoRA settings for a run of `total_steps`.

    Raises InputError if no step is left in which ranks can shrink.
    """
    from peft import AdaLoraConfig

    options = peft.adalora
    tinit, tfinal = options.fixed_steps(total_steps)
    scale: Any = peft.alpha
    return AdaLoraConfig(
        init_r=options.init_rank,
        target_r=options.target_rank,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=options.delta_t or max(1, total_steps // 100),
        beta1=options.betas[0],
        beta2=options.betas[1],
        orth_reg_weight=options.orthogonal_weight,
        total_step=total_steps,
        lora_alpha=scale,
        lora_dropout=peft.dropout,
        target_modules=targets,
        task_type=task,
    )


def orthogonal_penalty(model: Any) -> Tensor | None:
    """Return the penalty that AdaLoRA adds to a step's loss: the weighted mean of ||P'P - I|| and ||QQ' - I|| (equation
    4).

    Returns None for any other adapter. peft adds the penalty only to a loss that the model itself computes, which
    medray does not use.
    """
    inner = getattr(model, "module", model)
    tuner = getattr(inner, "base_model", None)
    if not hasattr(tuner, "rankallocator"):
        return None
    norms = []
    for name, factor in inner.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    weight: float = inner.peft_config["default"].orth_reg_weight
    return weight * torch.stack(norms).mean() if weight else None


class RankAllocation:
    """Reduces the ranks of an AdaLoRA adapter after each step of a torch optimizer, and saves its state in checkpoints.

    Every worker computes the same result from the same gradients.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        inner = getattr(model, "module", model)
        self._tuner = inner.base_model
        self._settings = inner.peft_config["default"]
        self._allocator = self._tuner.rankallocator
        self._step = 0
        optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._step += 1
        self._tuner.update_and_allocate(self._step)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state that later steps need, besides weights and moments. Names and shapes never change."""
        found: dict[str, Tensor] = {"step": torch.tensor([float(self._step)])}
        pattern = self._settings.rank_pattern or {}
        for name, parameter in self._factors():
            for kind in _SUMS:
                sums = getattr(self._allocator, kind)
                found[f"{kind}/{name}"] = sums.get(name, torch.zeros_like(parameter))
            if "lora_E" in name:
                kept = pattern.get(name, [True] * len(parameter))
                found[f"kept/{name}"] = torch.tensor([float(one) for one in kept])
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state from `tensors`. Before the first step, all sums are zero."""
        self._step = int(tensors["step"].item())
        pattern: dict[str, list[bool]] = {}
        for name, parameter in self._factors():
            self._allocator.ipt[name] = torch.zeros_like(parameter)
            for kind in _SUMS:
                getattr(self._allocator, kind)[name] = tensors[f"{kind}/{name}"].to(parameter)
            if "lora_E" in name:
                pattern[name] = [bool(one) for one in tensors[f"kept/{name}"]]
        # Before the first allocation all ranks are kept, and peft has no pattern.
        cut = any(not all(kept) for kept in pattern.values())
        self._settings.rank_pattern = pattern if cut else None

    def _factors(self) -> list[tuple[str, Any]]:
        return [(name, one) for name, one in self._tuner.model.named_parameters() if "lora_" in name]


def rank_allocation(model: Any, optimizer: Any) -> RankAllocation | None:
    """Return the object that reduces the ranks of an AdaLoRA adapter; None for any other adapter."""
    tuner = getattr(getattr(model, "module", model), "base_model", None)
    return RankAllocation(model, optimizer) if hasattr(tuner, "rankallocator") else None


def ranks(model: Any) -> dict[str, int]:
    """Return the number of nonzero singular values of each layer, by the name of the layer."""
    return {
        name.partition(".lora_E")[0]: int((one != 0).sum())
        for name, one in model.named_parameters()
        if ".lora_E." in name
    }
