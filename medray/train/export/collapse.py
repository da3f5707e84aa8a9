"""Warnings about a finished run whose model is probably useless, from its recorded numbers alone.

A run is done when it has trained, saved and exported. That says nothing about the model: a run with a learning rate of 100
finishes too. Each rule below reads the numbers of the run and returns one sentence, or None. A rule changes neither the
status nor the exit code. The rules that need the texts alone are in `evaluate/scoring/collapse.py`.
`docs/what-done-means.md` lists the rules for users.

No sentence contains text of a record. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from medray.data.reasoning import answer_only
from medray.evaluate.scoring import collapse
from medray.evaluate.scoring.collapse import MOST, Answer
from medray.evaluate.words import words

LAST_STEPS = 3  # one step without a gradient may be an accident
WINDOW = 10  # largest number of steps to average at each end of the training loss
LOSS_ROSE = 1.1  # factor; the noise of batches is smaller
FEW_STEPS, LOSS_ROSE_IN_FEW = 4, 2.0  # with fewer steps, single batches are compared
NEAR_ZERO = 0.1  # a training loss below this comes from a few hard words
LEARNED = 1e-3  # loss below which nothing is left to learn, so no weight needs to change
GUESSING = 0.99  # share of ln(vocabulary)
EQUAL = 1e-7  # relative: the same weights on the same rows give the same loss
WORSE = 1e-3  # relative and absolute: more than a different order of sums or a small first step changes
FEW_LOSS_TOKENS = 1.5  # per example: little more than the token that ends an answer
EXPORT_DIFFERS = 0.2  # relative: a different precision changes a few answers, not a fifth of a metric
LOSS_DIFFERS, ROUGE_DIFFERS = 0.01, 1.0  # absolute: small numbers differ by rounding


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The numbers that a run recorded.

    steps: lines of steps.jsonl. before, after: metrics of the validation split; {} if there are none.
    export: metrics of the export that differ from those measured at the same step during training.
    vocabulary: size of the model's vocabulary, None if unknown. tasks: for each task of the training split, the counts
    `rows`, `truncated` and `loss_tokens`.
    """

    steps: Sequence[Mapping[str, Any]] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    export: Mapping[str, float] = field(default_factory=dict)
    answers: Sequence[Answer] = ()
    vocabulary: int | None = None
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def warnings(evidence: Evidence) -> list[dict[str, str]]:
    """Return `{"name", "text"}` for each rule that applies, in the order of RULES."""
    found = ((name, rule(evidence)) for name, rule in RULES.items())
    return [{"name": name, "text": text} for name, text in found if text]


def not_finite(evidence: Evidence) -> str | None:
    names = [name for name, value in evidence.after.items() if not math.isfinite(value)]
    return f"these validation metrics are not numbers: {', '.join(names)}" if names else None


def validation_loss_rose(evidence: Evidence) -> str | None:
    before, after = evidence.before, evidence.after
    # With a scheduled alpha, the two total losses weight the tasks differently.
    names = ["loss_label"] if before.get("alpha") != after.get("alpha") else ["loss", "loss_label"]
    rose = [
        f"{name} from {before[name]:.4g} to {after[name]:.4g}"
        for name in names
        if name in before and name in after and after[name] > before[name] * (1 + WORSE) + WORSE
    ]
    if not rose:
        return None
    return f"the validation loss is worse than before training: {', '.join(rose)}. Try a lower train.optimizer.lr"


def training_loss_rose(evidence: Evidence) -> str | None:
    losses = _training_losses(evidence)
    name = "loss_label" if "loss_label" in evidence.after else "loss"
    if name in evidence.before and evidence.after.get(name, math.inf) < evidence.before[name]:
        return None  # the loss of all validation rows is more reliable than that of a few batches
    if len(losses) < 2:
        return None
    window = min(max(len(losses) // 4, 1), WINDOW)
    first, last = fmean(losses[:window]), fmean(losses[-window:])
    rise = LOSS_ROSE_IN_FEW if len(losses) < FEW_STEPS else LOSS_ROSE
    # One hard batch at the end does not count as a rise.
    sure = min(losses[-2:]) if len(losses) >= FEW_STEPS and window == 1 else last
    if sure <= max(rise * first, NEAR_ZERO):
        return None
    return f"the training loss rose from {first:.4g} to {last:.4g}. Try a lower train.optimizer.lr"


def no_better_than_guessing(evidence: Evidence) -> str | None:
    if not evidence.vocabulary or evidence.vocabulary < 2:
        return None
    guessing = math.log(evidence.vocabulary)
    losses = _training_losses(evidence)[-LAST_STEPS:]
    validation = evidence.after.get("loss_label", evidence.after.get("loss"))
    loss = validation if validation is not None else fmean(losses) if losses else None
    if loss is None or loss < GUESSING * guessing:
        return None
    return (
        f"the loss, {loss:.4g}, is no better than that of random guessing, which is {guessing:.4g} with "
        f"{evidence.vocabulary:,} tokens"
    )


def zero_gradients(evidence: Evidence) -> str | None:
    last = [step["grad_norm"] for step in evidence.steps if "grad_norm" in step][-LAST_STEPS:]
    losses = _training_losses(evidence)[-LAST_STEPS:]
    if not last or any(norm != 0 for norm in last) or (losses and max(losses) < LEARNED):
        return None
    steps = "the last step" if len(last) == 1 else f"the last {len(last)} steps"
    return f"the gradient of {steps} is exactly 0, so the model learned nothing there"


def skipped_steps(evidence: Evidence) -> str | None:
    norms = [step["grad_norm"] for step in evidence.steps if "grad_norm" in step]
    skipped = sum(norm is None for norm in norms)
    if not norms or (skipped <= MOST * len(norms) and any(norm is not None for norm in norms[-LAST_STEPS:])):
        return None
    return f"{skipped} of {len(norms)} steps overflowed in fp16 and changed no weight. Try train.precision: bf16 or fp32"


def nothing_moved(evidence: Evidence) -> str | None:
    if not evidence.steps:
        return None
    rates = [value for step in evidence.steps for name, value in step.items() if name.split("/")[0] == "lr"]
    if rates and not any(rates):
        return "the learning rate was 0 in every step, so no weight changed"
    before, after = evidence.before.get("loss"), evidence.after.get("loss")
    if before is None or after is None or after < LEARNED or not math.isclose(before, after, rel_tol=EQUAL):
        return None
    return (
        f"the validation loss is the same as before training ({after:.6g}): no weight seems to have changed. "
        "Try a higher train.optimizer.lr, or more steps"
    )


def few_loss_tokens(evidence: Evidence) -> str | None:
    for task, counts in evidence.tasks.items():
        if counts["rows"] and counts["loss_tokens"] < FEW_LOSS_TOKENS * counts["rows"]:
            mean = counts["loss_tokens"] / counts["rows"]
            return (
                f"{task}: an example has {mean:.1f} loss tokens on average, so there is hardly anything to learn. "
                "`medray data inspect` shows which tokens they are"
            )
    return None


def all_truncated(evidence: Evidence) -> str | None:
    for task, counts in evidence.tasks.items():
        if counts["rows"] > 1 and counts["truncated"] >= counts["rows"]:
            return f"{task}: every training example was cut to fit. Try higher limits (data.max_input_tokens and others)"
    return None


def empty_predictions(evidence: Evidence) -> str | None:
    return collapse.empty_predictions(evidence.answers)


def same_prediction(evidence: Evidence) -> str | None:
    return collapse.same_prediction(evidence.answers)


def echoed_prompts(evidence: Evidence) -> str | None:
    return collapse.echoed_prompts(evidence.answers)


def repeating_predictions(evidence: Evidence) -> str | None:
    return collapse.repeating_predictions(evidence.answers)


def metric_fell_to_zero(evidence: Evidence) -> str | None:
    references = [words(answer_only(answer.reference or "")) for answer in evidence.answers]
    if len(references) == 1:  # a single answer may be wrong by chance
        return None
    # ROUGE is 0 if no word matches. But ROUGE-2 is 0 for one-word answers, and all ROUGE is 0 for an answer such as "+".
    ever = "rouge1" if "rouge1" in evidence.after else "rougeL"
    no_word = evidence.after.get(ever) == 0 and (not references or any(references))
    names = [
        name
        for name, value in evidence.after.items()
        if value == 0
        and not name.startswith(("loss", "alpha"))
        and (evidence.before.get(name, 0) > 0 or (no_word and name.startswith("rouge") and name != "rouge2"))
    ]
    return f"these metrics of generated text are 0 after training: {', '.join(names)}" if names else None


def export_differs(evidence: Evidence) -> str | None:
    far = [
        f"{name} is {value:.4g} instead of {evidence.after[name]:.4g}"
        for name, value in evidence.export.items()
        if abs(value - evidence.after[name])
        > max(
            EXPORT_DIFFERS * max(abs(value), abs(evidence.after[name])),
            _noise(name, len(evidence.answers)),
        )
    ]
    return f"the export's answers differ from those of the trained model: {', '.join(far)}" if far else None


Rule = Callable[[Evidence], str | None]
RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        not_finite,
        validation_loss_rose,
        training_loss_rose,
        no_better_than_guessing,
        zero_gradients,
        skipped_steps,
        nothing_moved,
        few_loss_tokens,
        all_truncated,
        empty_predictions,
        same_prediction,
        echoed_prompts,
        repeating_predictions,
        metric_fell_to_zero,
        export_differs,
    )
}


def _training_losses(evidence: Evidence) -> list[float]:
    """Return the loss of each step on the label task if it is recorded, because the weights of other tasks may change."""
    name = "loss/label" if any("loss/label" in step for step in evidence.steps) else "loss"
    return [float(step[name]) for step in evidence.steps if step.get(name) is not None]


def _noise(name: str, rows: int) -> float:
    """Return the difference of a metric that is only noise: rounding of a loss, or one different answer."""
    if name.startswith("loss"):
        return LOSS_DIFFERS
    if name.startswith("rouge"):
        return ROUGE_DIFFERS
    return 1 / rows if rows else 0.0
