"""An engine for tests of what a step adds up: it never changes a weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medray.train.engine.state import ExtraState, TrainState


class Accumulator:
    """An engine whose step leaves the weights alone: the summed gradients stay on the model."""

    world_size, gathers = 1, False
    extra: ExtraState | None = None

    def __init__(self, model: Any, rank: int) -> None:
        self.model, self.rank, self.device = model, rank, torch.device("cpu")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        return 0.0

    def rates(self) -> dict[str, float]:
        return {}

    def sum(self, values: Tensor) -> Tensor:
        return values

    def state(self) -> TrainState:
        raise NotImplementedError


def gradients(model: Any) -> dict[str, Tensor]:
    named = model.named_parameters()
    found = {name: value.grad.clone() for name, value in named if value.grad is not None}
    model.zero_grad()
    return found
