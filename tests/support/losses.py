"""Losses of configs, named by the weights that a test reasons with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from medray.config.method import MethodConfig
from medray.methods import MethodLoss, loss_of

LABEL = {"label": 1.0}


def loss(
    weights: Mapping[str, float],
    *,
    cosine: bool = False,
    reduction: Literal["mean", "sum"] = "mean",
    norm: Literal["token", "micro_batch"] = "token",
) -> MethodLoss:
    """Return the loss whose tasks have these weights: `label` has alpha, the others 1 - alpha."""
    if weights == LABEL:
        return loss_of(MethodConfig(loss_norm=norm))
    method: dict[str, Any] = {"name": "distill", "alpha": weights.get("label", 0.0), "loss_norm": norm}
    if keys := [name.removeprefix("rationale/") for name in weights if "/" in name]:
        method |= {"variant": "hierarchical", "rationale": {"keys": keys, "reduction": reduction}}
    elif cosine:
        method["variant"] = "cosine"
    made = loss_of(MethodConfig.model_validate(method))
    assert made.tasks == tuple(weights), (made.tasks, weights)
    return made
