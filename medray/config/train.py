from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from medray.config.section import Section, key

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerGroup(Section):
    """Parameters with a learning rate or weight decay of their own."""

    match: str = Field(
        description="Regular expression, searched for in the names of trained parameters; the first group that "
        "matches has a parameter.",
        json_schema_extra={"resumable": False},
        min_length=1,
    )
    lr: float | None = key(None, "Peak learning rate of these parameters.", ge=0)
    lr_scale: float | None = key(
        None, "The same as a multiple of train.optimizer.lr (LoRA+: 16 for lora_B).", ge=0
    )
    weight_decay: float | None = key(None, "Decoupled weight decay of these parameters.", ge=0)

    @field_validator("match")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError):
            raise ValueError("expected a regular expression") from None
        return value

    @model_validator(mode="after")
    def _says_something_once(self) -> OptimizerGroup:
        if self.lr is not None and self.lr_scale is not None:
            raise ValueError("lr and lr_scale say the same thing; one of them is enough")
        if self.lr is None and self.lr_scale is None and self.weight_decay is None:
            raise ValueError("a group needs lr, lr_scale or weight_decay")
        return self


class OptimizerConfig(Section):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = key(
        "adamw",
        "AdamW with decoupled weight decay. 8bit: its moments in 8 bits. paged: they move to host memory where the "
        "GPU's is full (bitsandbytes).",
    )
    lr: float = key(5e-5, "Peak learning rate.", gt=0)
    weight_decay: float = key(0.0, "Decoupled weight decay.", ge=0)
    decay_norms_and_biases: bool = key(
        True, "false: parameters of one dimension (norms, biases) have no weight decay."
    )
    groups: tuple[OptimizerGroup, ...] = key(
        (), "Parameters with a learning rate or weight decay of their own, told by their names."
    )
    betas: tuple[Beta, Beta] = key((0.9, 0.999), "Decay rates of the two moments.")
    eps: float = key(1e-8, "Added to the root of the second moment.", gt=0)


class SchedulerConfig(Section):
    """The course of the learning rate over the steps."""

    name: Literal["linear", "cosine", "constant", "constant_with_warmup", "wsd"] = key(
        "linear", "Course of the learning rate after warm-up; wsd: constant, and at the end a decay."
    )
    warmup_steps: int | None = key(None, "Steps of linear warm-up.", ge=0)
    warmup_ratio: float = key(0.0, "The same as a share of all steps; warmup_steps goes before.", ge=0, lt=1)
    min_lr_ratio: float = key(
        0.0, "Where linear, cosine and wsd end, as a share of the peak learning rate.", ge=0, le=1
    )
    decay_steps: int | None = key(None, "wsd only: steps of the decay at the end.", ge=1)
    decay_ratio: float = key(
        0.1, "wsd only: the same as a share of all steps; decay_steps goes before.", gt=0, le=1
    )
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = key("1-sqrt", "wsd only: course of the decay.")


# Of DeepSpeed's config, the key of ours that says the same.
_OWN_KEYS = {
    "optimizer": "train.optimizer",
    "scheduler": "train.scheduler",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "gradient_clipping": "train.clip_grad_norm",
    "zero_optimization.stage": "train.zero_stage",
    "zero_optimization.offload_optimizer": "train.offload",
    "zero_optimization.offload_param": "train.offload",
}


class TrainConfig(Section):
    """How long, in what batches and with which engine a model is trained."""

    epochs: float = key(1.0, "Passes over the data; a part of one is allowed.", gt=0, resumable=True)
    max_steps: int | None = key(None, "Optimizer steps; goes before epochs.", ge=1, resumable=True)
    global_batch_size: int = key(
        8,
        "Rows of one optimizer step over all workers; with data.pack_tokens: sequences of packed rows.",
        ge=1,
    )
    global_batch_tokens: int | None = key(
        None, "Tokens of one optimizer step, in place of a number of rows.", ge=1
    )
    micro_batch_size: int | None = key(
        None, "Rows a worker holds at once; default: follows from the batch.", ge=1, resumable=True
    )
    gradient_accumulation_steps: int | None = key(
        None, "Micro-batches of a step; default: follows.", ge=1, resumable=True
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = key(
        "auto",
        "auto: bf16 where a GPU has it, else fp32; a run keeps the one that it began with.",
        resumable=True,
    )
    zero_stage: int = key(
        2,
        "What DeepSpeed shards: 1 optimizer, 2 gradients, 3 parameters. One worker in float32 trains without DeepSpeed at "
        "1 and 2, which shard nothing there.",
        ge=0,
        le=3,
        resumable=True,
    )
    offload: Literal["none", "cpu"] = key(
        "none", "cpu keeps optimizer state (and stage 3 parameters) in host memory."
    )
    deepspeed: dict[str, Any] = key({}, "Raw overrides of DeepSpeed's own config.")
    gradient_checkpointing: bool = key(
        False, "Recompute activations in the backward pass to save memory.", resumable=True
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    clip_grad_norm: float = key(1.0, "Largest gradient norm; 0 does not clip.", ge=0)
    label_smoothing: float = key(
        0.0, "Share of each target that all tokens get alike; evaluation has none.", ge=0, lt=1
    )
    loss_chunk_tokens: int | None = key(
        None,
        "Tokens whose logits exist at once; default: so many that they have 2^25 values, where a micro-batch has "
        "more than four times as many. 0: always all.",
        ge=0,
        resumable=True,
    )
    save_every_steps: int | None = key(
        None,
        "Steps between checkpoints, beside those of evaluations; default: ten a run.",
        ge=1,
        resumable=True,
    )
    keep_checkpoints: int = key(2, "Newest checkpoints that are kept.", ge=1, resumable=True)
    keep_best: str | None = key(
        None,
        "Metric of evaluations (loss, rougeL, …) whose best checkpoint is kept too, and exported at the end.",
        resumable=True,
    )
    save_patience_minutes: float = key(
        30.0,
        "How long a checkpoint may fail to be written, while training goes on, or to be read at a start, before the "
        "run fails.",
        gt=0,
        resumable=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: object) -> object:
        """So that an override can take back the batch size of a file: global_batch_size=null."""
        if isinstance(value, dict) and value.get("global_batch_size", 0) is None:
            return {name: each for name, each in value.items() if name != "global_batch_size"}
        return value

    @model_serializer(mode="wrap")
    def _without_the_unused_size(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With batches by tokens the default number of rows decides nothing, and beside them it is refused."""
        tree: dict[str, Any] = written(self)
        unused = self.global_batch_tokens is not None and "global_batch_size" not in self.model_fields_set
        return tree | {"global_batch_size": None} if unused and "global_batch_size" in tree else tree

    @field_validator("deepspeed")
    @classmethod
    def _plain_and_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                "expected what JSON can hold: text, finite numbers, lists, keys with values"
            ) from None
        owned = {
            *("train_batch_size", "train_micro_batch_size_per_gpu"),
            *("gradient_accumulation_steps", "managed_gradient_accumulation"),
        }
        if clash := sorted(owned & set(value)):
            raise ValueError(f"{clash[0]} is derived; set train.global_batch_size and its neighbours")
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(
                "zero_optimization takes keys", "train.deepspeed: {zero_optimization: {overlap_comm: true}}"
            )
        given = {*value, *(f"zero_optimization.{name}" for name in zero)}
        if clash := sorted(_OWN_KEYS.keys() & given):
            raise ValueError(f"{clash[0]} has a key of its own, which is checked; set {_OWN_KEYS[clash[0]]}")
        return value
