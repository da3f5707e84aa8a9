from __future__ import annotations

from typing import Literal

from medray.config.section import Section, key


class MethodConfig(Section):
    """What the loss is."""

    name: Literal["sft", "distill"] = key(
        "sft", "sft: the label alone. distill: label and rationale, or standard."
    )
    mode: Literal["standard", "task_prefix"] = key(
        "task_prefix",
        "distill only. task_prefix: two tasks, told apart by their prompts. standard: the label alone.",
    )
    alpha: float = key(0.5, "Weight of the label task; the rationale task has 1 - alpha.", ge=0, le=1)
    label_weight: float = key(1.0, "Multiplies the label loss.", gt=0)
    train_on: Literal["completion", "all"] = key(
        "completion", "Tokens with loss: the answers alone, or the prompt too (causal models)."
    )
    label_source: Literal["gt", "llm"] = key(
        "gt", "Training labels: gold, or what the teacher wrote. Validation keeps gold."
    )
    teacher: Literal["palm", "gpt", "generic"] | None = key(
        None, "Whose completions a named corpus brings as rationale and label; default: the corpus's own."
    )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that are trained; a task of weight zero costs no forward."""
        if self.name == "sft" or self.mode == "standard":
            return ("label",)
        return tuple(
            task for task, weight in (("label", self.alpha), ("rationale", 1 - self.alpha)) if weight > 0
        )

    def weight(self, task: str) -> float:
        """Factor of the mean token loss of `task` in the total loss."""
        if self.name == "sft" or self.mode == "standard":
            return 1.0
        return self.alpha * self.label_weight if task == "label" else 1 - self.alpha
