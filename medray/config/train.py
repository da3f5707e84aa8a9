from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from medray.config.section import Section, key

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerGroup(Section):
    """A group of parameters with a separate learning rate or weight decay."""

    match: str = Field(
        description="Regular expression that is searched for in the names of trained parameters; a parameter belongs to the "
        "first group that matches.",
        json_schema_extra={"resumable": False},
        min_length=1,
    )
    lr: float | None = key(None, "Peak learning rate of these parameters.", ge=0)
    lr_scale: float | None = key(
        None, "Peak learning rate as a multiple of train.optimizer.lr (LoRA+: 16 for lora_B).", ge=0
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
            raise ValueError("lr and lr_scale both set the learning rate; remove one of them")
        if self.lr is None and self.lr_scale is None and self.weight_decay is None:
            raise ValueError("a group needs lr, lr_scale or weight_decay")
        return self


# Names of other frameworks → (what is wrong, fix). Spelling alone would lead to an optimizer with other moments.
_OTHER_OPTIMIZERS = {
    "paged_adamw_4bit": (
        "there is no AdamW whose moments have 4 bits: neither bitsandbytes nor transformers has an optimizer of this name, "
        "which the DFPO system was published with",
        "use paged_adamw_8bit, whose moments have the fewest bits, or paged_adamw for moments in full",
    ),
    "paged_adamw_32bit": (
        "this is a name of transformers; without a number, the moments have 32 bits",
        "use paged_adamw",
    ),
}


class OptimizerConfig(Section):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = key(
        "adamw",
        "AdamW with decoupled weight decay. 8bit: moments in 8 bits. paged: moments move to host memory when the GPU's "
        "memory is full (bitsandbytes).",
    )
    lr: float = key(5e-5, "Peak learning rate.", gt=0)
    weight_decay: float = key(0.0, "Decoupled weight decay.", ge=0)
    decay_norms_and_biases: bool = key(
        True, "false: no weight decay for parameters with one dimension (norms, biases)."
    )
    groups: tuple[OptimizerGroup, ...] = key(
        (), "Groups of parameters, chosen by name, with a separate learning rate or weight decay."
    )
    betas: tuple[Beta, Beta] = key((0.9, 0.999), "Decay rates of the two moments.")
    eps: float = key(1e-8, "Constant added to the square root of the second moment.", gt=0)

    @field_validator("name", mode="before")
    @classmethod
    def _is_ours(cls, value: object) -> object:
        if isinstance(value, str) and value in _OTHER_OPTIMIZERS:
            raise ValueError(*_OTHER_OPTIMIZERS[value])
        return value


class SchedulerConfig(Section):
    """The learning rate schedule."""

    name: Literal["linear", "cosine", "constant", "constant_with_warmup", "wsd"] = key(
        "linear", "Schedule of the learning rate after warm-up; wsd: constant, with a decay at the end."
    )
    warmup_steps: int | None = key(None, "Steps of linear warm-up.", ge=0)
    warmup_ratio: float = key(
        0.0, "Warm-up as a share of all steps; warmup_steps takes precedence.", ge=0, lt=1
    )
    min_lr_ratio: float = key(
        0.0, "linear, cosine and wsd: final learning rate, as a share of the peak.", ge=0, le=1
    )
    decay_steps: int | None = key(None, "wsd only: steps of the decay at the end.", ge=1)
    decay_ratio: float = key(
        0.1, "wsd only: decay as a share of all steps; decay_steps takes precedence.", gt=0, le=1
    )
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = key("1-sqrt", "wsd only: shape of the decay.")


# Key of DeepSpeed's config → the medray key that sets it.
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
    """Training: its length, batches, optimizer, engine and checkpoints."""

    epochs: float = key(1.0, "Passes over the data; may be a fraction.", gt=0, resumable=True)
    max_steps: int | None = key(
        None, "Number of optimizer steps; takes precedence over epochs.", ge=1, resumable=True
    )
    global_batch_size: int = key(
        8,
        "Rows per optimizer step over all workers; with data.pack_tokens: sequences of packed rows.",
        ge=1,
    )
    global_batch_tokens: int | None = key(
        None, "Tokens per optimizer step, instead of a number of rows.", ge=1
    )
    micro_batch_size: int | None = key(
        None,
        "Rows that a worker processes at once; default: derived from the batch, and on known GPUs from what fits.",
        ge=1,
        resumable=True,
    )
    gradient_accumulation_steps: int | None = key(
        None, "Micro-batches per step and worker; default: derived from the batch.", ge=1, resumable=True
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = key(
        "auto",
        "auto: bf16 if the GPU supports it, else fp32; a run keeps the precision that it began with.",
        resumable=True,
    )
    zero_stage: int = key(
        2,
        "ZeRO stage: 1 shards optimizer state, 2 also gradients, 3 also parameters. A single worker in float32 trains "
        "without DeepSpeed at stages 1 and 2, because there is nothing to shard.",
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
    clip_grad_norm: float = key(1.0, "Largest gradient norm; 0 disables clipping.", ge=0)
    label_smoothing: float = key(
        0.0, "Share of each target that is spread evenly over all tokens; not used in evaluation.", ge=0, lt=1
    )
    loss_chunk_tokens: int | None = key(
        None,
        "Number of tokens whose logits are in memory at once. Default: all; if a micro-batch has more than 4 * 2^25 logits, "
        "as many tokens as have 2^25. 0: always all.",
        ge=0,
        resumable=True,
    )
    save_every_steps: int | None = key(
        None,
        "Steps between checkpoints, in addition to those at evaluations; default: a tenth of the run.",
        ge=1,
        resumable=True,
    )
    keep_checkpoints: int = key(2, "Number of newest checkpoints to keep.", ge=1, resumable=True)
    keep_best: str | None = key(
        None,
        "Metric of evaluations (loss, rougeL, …) by which the best checkpoint is also kept, and exported at the end.",
        resumable=True,
    )
    save_patience_minutes: float = key(
        30.0,
        "Minutes for which writing a checkpoint (while training continues) or reading it at a start is retried before the "
        "run fails.",
        gt=0,
        resumable=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: object) -> object:
        """Drop a null batch size, so that the override global_batch_size=null removes the one of a file."""
        if isinstance(value, dict) and value.get("global_batch_size", 0) is None:
            return {name: each for name, each in value.items() if name != "global_batch_size"}
        return value

    @model_serializer(mode="wrap")
    def _without_the_unused_size(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write null for the default number of rows if batches are by tokens: both together are refused."""
        tree: dict[str, Any] = written(self)
        unused = self.global_batch_tokens is not None and "global_batch_size" not in self.model_fields_set
        return tree | {"global_batch_size": None} if unused and "global_batch_size" in tree else tree

    @field_validator("deepspeed")
    @classmethod
    def _plain_and_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("expected JSON values: text, finite numbers, lists, keys with values") from None
        owned = {
            *("train_batch_size", "train_micro_batch_size_per_gpu"),
            *("gradient_accumulation_steps", "managed_gradient_accumulation"),
        }
        if clash := sorted(owned & set(value)):
            raise ValueError(
                f"{clash[0]} is derived; set train.global_batch_size, train.micro_batch_size or "
                "train.gradient_accumulation_steps instead"
            )
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(
                "zero_optimization takes keys", "train.deepspeed: {zero_optimization: {overlap_comm: true}}"
            )
        given = {*value, *(f"zero_optimization.{name}" for name in zero)}
        if clash := sorted(_OWN_KEYS.keys() & given):
            raise ValueError(f"{clash[0]} must not be set here; set {_OWN_KEYS[clash[0]]} instead")
        return value
