from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from medray.config.section import Section, key

# Metric → the names of its numbers in evaluations.
NUMBERS = {
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum", "rouge_avg"),
    "accuracy": ("accuracy",),
    "entity_f1": ("entity_precision", "entity_recall", "entity_f1"),
    "bleu": ("bleu",),
    "exact_match": ("exact_match",),
    "ner_f1": ("ner_precision", "ner_recall", "ner_f1", "ner_exact", "ner_unparsed"),
    "re_f1": ("re_precision", "re_recall", "re_f1", "re_exact", "re_unparsed"),
}

_LOWER_IS_BETTER = frozenset(
    (
        "loss",
        "perplexity",
        "ppl",
        "error",
        "wer",
        "cer",
        "failure",
        "failures",
        "truncated",
        "penalized",
        "unparsed",
    )
)


def lower_is_better(metric: str) -> bool:
    """Return whether lower values are better, by a word in the metric's name: true for `loss_label` and `word_error`."""
    return not _LOWER_IS_BETTER.isdisjoint(re.split(r"[^a-z]+", metric.lower()))


class GenerationConfig(Section):
    """The generation of text for metrics."""

    rows: int = key(
        64,
        "Number of validation rows for which text is generated; the loss uses all rows.",
        ge=0,
        resumable=True,
    )
    max_new_tokens: int = key(128, "Longest prediction, in tokens.", ge=1, resumable=True)
    num_beams: int = key(1, "Beams of beam search; 1 is greedy.", ge=1, resumable=True)
    base_settings: bool = key(
        False,
        "Also use penalties, minimum lengths and suppressed tokens from the base model's generation_config, but never "
        "sampling.",
        resumable=True,
    )


class EvalConfig(Section):
    """Evaluation on the validation split before, during and after training."""

    every_steps: int | None = key(
        None, "Steps between evaluations; default: only before and after training.", ge=1, resumable=True
    )
    at_start: bool = key(
        True, "Evaluate before the first step, to measure the untuned model.", resumable=True
    )
    metrics: tuple[
        Literal["rouge", "accuracy", "entity_f1", "bleu", "exact_match", "ner_f1", "re_f1"], ...
    ] = key(("rouge",), "Metrics of generated text.", resumable=True)
    batch_size: int = key(16, "Rows a worker evaluates at once.", ge=1, resumable=True)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the names of the numbers that are computed from generated text at every evaluation."""
        asked = self.metrics if self.generation.rows else ()
        return tuple(number for metric in asked for number in NUMBERS[metric])
