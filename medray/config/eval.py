from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from medray.config.section import Section, key

# The numbers of each metric, by the names that evaluations give them.
NUMBERS = {
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum", "rouge_avg"),
    "accuracy": ("accuracy",),
    "entity_f1": ("entity_precision", "entity_recall", "entity_f1"),
}

_LOWER_IS_BETTER = frozenset(
    ("loss", "perplexity", "ppl", "error", "wer", "cer", "failure", "failures", "truncated")
)


def lower_is_better(metric: str) -> bool:
    """Whether a word of the metric's name says so: `loss_label` and `word_error` do, `answer_f1` does not."""
    return not _LOWER_IS_BETTER.isdisjoint(re.split(r"[^a-z]+", metric.lower()))


class GenerationConfig(Section):
    """How text is generated for the metrics."""

    rows: int = key(
        64, "Validation rows that are generated for; the loss is over all rows.", ge=0, resumable=True
    )
    max_new_tokens: int = key(128, "Longest prediction.", ge=1, resumable=True)
    num_beams: int = key(1, "Beams of the search for the likeliest text; 1 is greedy.", ge=1, resumable=True)
    base_settings: bool = key(
        False,
        "Also use the penalties, minimum lengths and suppressed tokens of the base's generation_config; never sampling.",
        resumable=True,
    )


class EvalConfig(Section):
    """What is measured on the validation split, before, during and after training."""

    every_steps: int | None = key(
        None, "Steps between evaluations; default: none but first and last.", ge=1, resumable=True
    )
    at_start: bool = key(
        True, "Evaluate before the first step: what the untuned model can do.", resumable=True
    )
    metrics: tuple[Literal["rouge", "accuracy", "entity_f1"], ...] = key(
        ("rouge",), "Metrics of generated text.", resumable=True
    )
    batch_size: int = key(16, "Rows a worker evaluates at once.", ge=1, resumable=True)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Of generated text, at every evaluation."""
        asked = self.metrics if self.generation.rows else ()
        return tuple(number for metric in asked for number in NUMBERS[metric])
