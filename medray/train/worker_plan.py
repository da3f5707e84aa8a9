"""What the driver hands to every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medray.config import Config
from medray.data.shards.token_split import TokenSet
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
        """Whether the plain torch engine does the same as DeepSpeed: one process in float32 that shards nothing.

        Stages 1 and 2 shard between processes only, and checkpoints hold state by name, which every stage reads. In 16
        bits DeepSpeed steps on float32 copies, and moments in 8 bits are quantized in blocks of its flat groups: both
        stay with DeepSpeed.
        """
        train = self.config.train
        if world_size > 1 or self.precision != "fp32" or train.deepspeed or train.offload != "none":
            return False
        return train.zero_stage == 0 or (train.zero_stage < 3 and train.optimizer.name == "adamw")
