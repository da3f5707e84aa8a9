"""The plan that the driver passes to every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medray.config import Config
from medray.data.shards.row_values import RowValues
from medray.data.shards.token_split import TokenSet
from medray.methods import MethodLoss, loss_of
from medray.train.checkpoint.beginning import Beginning


@dataclass(frozen=True)
class WorkerPlan:
    """The settings and data of a rank. precision: fp32, bf16 or fp16; model: the Hugging Face config as a dict.

    reference: a name of the weights that training begins with, for a method that stores numbers of a frozen model.
    begin_from: checkpoint of another run whose weights the run begins with, if it has no checkpoint of its own.
    """

    config: Config
    run_folder: str
    train: TokenSet
    validation: TokenSet | None
    model: dict[str, Any]
    total_steps: int
    precision: str
    threads: int
    reference: str | None = None
    begin_from: Beginning | None = None

    @property
    def method(self) -> MethodLoss:
        """The loss of the run."""
        return loss_of(self.config.method)

    def stored_reference(self, tokens: TokenSet) -> RowValues | None:
        """Return the stored numbers of the frozen model for a split; None for a method without them."""
        reference = self.method.spec.reference
        if reference is None or reference.live:
            return None
        if self.reference is None:
            raise ValueError("the plan does not name the weights of the reference")
        return RowValues(tokens.folder, self.reference, reference.values)

    def plain_torch(self, world_size: int) -> bool:
        """Return whether plain torch does the same as DeepSpeed: one process in float32, with nothing to shard.

        Stages 1 and 2 shard between processes only, and every stage can read a checkpoint, which stores state by name.
        Two cases need DeepSpeed: with 16 bits it updates float32 copies of the weights, and with 8-bit moments it
        quantizes blocks of its flat groups.
        """
        train = self.config.train
        if world_size > 1 or self.precision != "fp32" or train.deepspeed or train.offload != "none":
            return False
        return train.zero_stage == 0 or (train.zero_stage < 3 and train.optimizer.name == "adamw")
