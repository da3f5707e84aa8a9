from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medray.config.section import Section, key
from medray.errors import InputError

Beta = Annotated[float, Field(gt=0, lt=1)]
# Types that add virtual tokens before a sequence; the model's own matrices stay unchanged.
PROMPT_TYPES = ("prefix", "prompt", "multitask_prompt")
LOW_RANK_TYPES = ("lora", "adalora")

# Adapter type → the keys that it uses; a key of another type is refused, see check_adapter.
_OF_TYPE: dict[str, tuple[str, ...]] = {
    "none": (),
    "lora": ("rank", "alpha", "dropout", "targets", "rslora", "dora"),
    "adalora": ("alpha", "dropout", "targets", "adalora"),
    "ia3": (),
    "prefix": ("virtual_tokens",),
    "prompt": ("virtual_tokens", "init_text"),
    "multitask_prompt": ("virtual_tokens", "init_text", "task_rank"),
}


class AdaLoraConfig(Section):
    """AdaLoRA's settings: ranks shrink where they matter least (Zhang et al. 2023)."""

    init_rank: int = key(12, "Rank of every layer's update at the start.", ge=2)
    target_rank: int = key(8, "Mean rank of the updates at the end.", ge=1)
    tinit: int | None = key(None, "Steps before ranks begin to shrink; default: a tenth of the run.", ge=0)
    tfinal: int | None = key(
        None, "Steps at the end with fixed ranks; default: three tenths of the run.", ge=0
    )
    delta_t: int | None = key(
        None, "Steps between two allocations of ranks; default: a hundredth of the run.", ge=1
    )
    betas: tuple[Beta, Beta] = key(
        (0.85, 0.85), "Decay rates of the importance of a parameter and of its uncertainty."
    )
    orthogonal_weight: float = key(
        0.5, "Weight of the penalty that keeps the singular vectors orthogonal.", ge=0
    )

    def fixed_steps(self, total_steps: int) -> tuple[int, int]:
        """Return the number of steps before ranks shrink, and after. Raises InputError if no step is left in between."""
        tinit = total_steps // 10 if self.tinit is None else self.tinit
        tfinal = 3 * total_steps // 10 if self.tfinal is None else self.tfinal
        if tinit >= total_steps - tfinal:
            raise InputError(
                f"of {total_steps} steps, {tinit} come before ranks shrink and {tfinal} after: no step is left in between",
                key="peft.adalora.tinit" if self.tinit is not None else "peft.adalora.tfinal",
                value=self.tinit if self.tinit is not None else self.tfinal,
                fix="use a smaller number, or more steps (train.max_steps)",
            )
        return tinit, tfinal


class PeftConfig(Section):
    """The adapter: parameters that are trained instead of the model's own."""

    type: Literal["none", "lora", "adalora", "ia3", "prefix", "prompt", "multitask_prompt"] = key(
        "none",
        "none trains every parameter; lora, adalora and ia3 adapt the model's layers; prefix, prompt and "
        "multitask_prompt add virtual tokens before the text.",
    )
    rank: int = key(16, "lora: rank of the low-rank update.", ge=1)
    alpha: float = key(32.0, "lora, adalora: the update is scaled by alpha / rank.", gt=0)
    dropout: float = key(0.0, "lora, adalora: dropout on the adapter's input.", ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = key(
        "all-linear", "lora, adalora: module names, or every linear layer except the output head."
    )
    rslora: bool = key(False, "lora: scale by alpha / sqrt(rank), so that a high rank learns as fast.")
    dora: bool = key(
        False, "lora: train the norm of each weight's columns separately from their direction (DoRA)."
    )
    adalora: AdaLoraConfig = Field(default_factory=AdaLoraConfig)
    virtual_tokens: int = key(20, "prefix, prompt, multitask_prompt: length of the prompt.", ge=1)
    init_text: str | None = key(
        None,
        "prompt, multitask_prompt: text whose embeddings initialize the prompt; default: random words.",
        min_length=1,
    )
    task_rank: int = key(1, "multitask_prompt: rank of the difference between the tasks' prompts.", ge=1)

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Return the keys that were changed but that this type does not use.

        An explicit `peft.type=none` switches the whole section off, and so turns any recipe into full tuning.
        """
        if self.type == "none" and "type" in self.model_fields_set:
            return ()
        fields = type(self).model_fields
        changed = (
            name
            for name in fields
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        )
        return tuple(name for name in changed if name != "type" and name not in _OF_TYPE[self.type])

    def describe(self) -> str:
        """Return a description for people: `lora rank 16`."""
        size: dict[str, Any] = {
            "lora": f" rank {self.rank}",
            "adalora": f" rank {self.adalora.init_rank} to {self.adalora.target_rank}",
            "prefix": f" of {self.virtual_tokens} tokens",
            "prompt": f" of {self.virtual_tokens} tokens",
            "multitask_prompt": f" of {self.virtual_tokens} tokens",
        }
        return f"{self.type}{size.get(self.type, '')}"
