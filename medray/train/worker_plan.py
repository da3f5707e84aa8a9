"""What the driver hands to every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medray.config import Config
from medray.data.tokens import TokenSet
from medray.methods.loss import Method


@dataclass(frozen=True)
class WorkerPlan:
    """All that a rank needs to know. precision: fp32, bf16 or fp16; model: the Hugging Face config as a dict."""

    config: Config
    run_folder: str
    train: TokenSet
    validation: TokenSet | None
    model: dict[str, Any]
    total_steps: int
    precision: str
    threads: int

    @property
    def method(self) -> Method:
        return Method.of(self.config.method)

    def plain_torch(self, world_size: int) -> bool:
        """One process that shards nothing needs no DeepSpeed."""
        train = self.config.train
        return world_size == 1 and train.zero_stage == 0 and self.precision == "fp32" and not train.deepspeed
