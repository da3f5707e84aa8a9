"""Losses of the methods, one class each, with torch only. `medray.config.method_specs` has the other half, the specs."""

from __future__ import annotations

from medray.config.method import MethodConfig
from medray.methods.distill import DistillLoss
from medray.methods.dpo import DpoLoss
from medray.methods.loss import MethodLoss
from medray.methods.sft import SftLoss

__all__ = ["LOSSES", "MethodLoss", "loss_of"]

LOSSES: dict[str, type[MethodLoss]] = {"sft": SftLoss, "distill": DistillLoss, "dpo": DpoLoss}


def loss_of(method: MethodConfig) -> MethodLoss:
    """Return the loss of a method's config."""
    return LOSSES[method.name].of(method)
