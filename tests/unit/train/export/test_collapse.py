"""The rules about a run whose model is probably useless: recorded numbers in, one warning out. Nothing is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from medray.evaluate.scoring.collapse import Answer
from medray.train.export.collapse import RULES, Evidence, warnings

VOCABULARY = 49152


def steps(*losses: float, **changes: Any) -> list[dict[str, Any]]:
    same = {"lr": 1e-3, "grad_norm": 1.5} | changes
    return [
        {"step": at + 1, "loss": loss, "loss/label": loss, "loss/rationale": 1.0, **same}
        for at, loss in enumerate(losses)
    ]


FALLING = steps(2.2, 2.0, 1.8, 1.6, 1.5, 1.4)
BEFORE = {"loss": 2.2, "loss_label": 2.2, "rougeL": 20.0, "accuracy": 0.0, "entity_f1": 0.1}
AFTER = {"loss": 1.4, "loss_label": 1.4, "rougeL": 41.0, "accuracy": 0.0, "entity_f1": 0.3}
ANSWERS = (
    Answer("user\nfever for two days\nassistant\n", "has fever", "has fever since two days"),
    Answer("user\nno cough\nassistant\n", "denies cough", "no cough"),
    Answer("user\nheadache\nassistant\n", "has headache", "has a headache"),
)
SOUND = Evidence(
    steps=FALLING,
    before=BEFORE,
    after=AFTER,
    answers=ANSWERS,
    vocabulary=VOCABULARY,
    tasks={"label": {"rows": 100, "truncated": 7, "loss_tokens": 1200}},
)


def names(evidence: Evidence) -> list[str]:
    return [warning["name"] for warning in warnings(evidence)]


def said(*predictions: str) -> list[Answer]:
    return [replace(answer, prediction=text) for answer, text in zip(ANSWERS, predictions, strict=True)]


def answers(references: str, predictions: str) -> list[Answer]:
    """Return one answer for each pair of words of the two texts."""
    return [Answer("is it?", *pair) for pair in zip(references.split(), predictions.split(), strict=True)]


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("not_finite", {"after": AFTER | {"loss_rationale": math.nan}}, "not numbers: loss_rationale"),
    ("validation_loss_rose", {"after": AFTER | {"loss": 2.3}}, "loss from 2.2 to 2.3"),
    ("validation_loss_rose", {"after": AFTER | {"loss_label": 2.21}}, "loss_label from 2.2 to 2.21"),
    ("training_loss_rose", {"after": {}, "steps": steps(2.2, 2.3, 3.0, 4.0)}, "from 2.2 to 4. Try"),
    ("no_better_than_guessing", {"before": {}, "after": {"loss": 10.8}}, "10.8, is no better than"),
    ("no_better_than_guessing", {"before": {}, "after": {"loss": 26.8}}, "which is 10.8 with 49,152 tokens"),
    ("no_better_than_guessing", {"before": {}, "after": {}, "steps": steps(10.75, 10.74)}, "random guessing"),
    ("zero_gradients", {"steps": [*FALLING[:3], *steps(1.5, 1.4, 1.3, grad_norm=0.0)]}, "last 3 steps is exactly 0"),
    ("skipped_steps", {"steps": [*FALLING[:3], *steps(1.5, 1.4, 1.3, grad_norm=None)]}, "3 of 6 steps overflowed"),
    ("nothing_moved", {"after": AFTER | {"loss": 2.2}}, "the same as before training (2.2)"),
    ("nothing_moved", {"steps": steps(2.2, 2.1, lr=0.0, **{"lr/lora_B": 0.0})}, "was 0 in every step"),
    ("few_loss_tokens", {"tasks": {"label": {"rows": 9, "truncated": 0, "loss_tokens": 9}}}, "has 1.0 loss tokens"),
    ("all_truncated", {"tasks": {"label": {"rows": 9, "truncated": 9, "loss_tokens": 99}}}, "every training example"),
    ("empty_predictions", {"answers": said("", " \n", "no cough")}, "2 of 3 predictions are empty"),
    ("same_prediction", {"answers": said("the", "the", "the ")}, "3 of 3 predictions are the same text"),
    ("same_prediction", {"answers": answers("no no yes yes a b", "no no no no no no")}, "6 of 6 predictions"),
    ("echoed_prompts", {"answers": said("user\nfever for two days", "user\nno cough", "x")}, "2 of 3 predictions repeat"),
    ("repeating_predictions", {"answers": said("no pain " * 12, "is is " * 20, "x")}, "2 of 3 predictions repeat a few"),
    ("metric_fell_to_zero", {"after": AFTER | {"entity_f1": 0.0}}, "are 0 after training: entity_f1"),
    ("metric_fell_to_zero", {"before": {}, "after": {"rougeL": 0.0, "accuracy": 0.0}}, "training: rougeL"),
    ("metric_fell_to_zero", {"before": {}, "after": {"rouge1": 0.0, "rouge2": 0.0}}, "training: rouge1"),
    ("training_loss_rose", {"before": {}, "after": {}, "steps": steps(2.2, 5.8)}, "from 2.2 to 5.8"),
    ("export_differs", {"export": {"rougeL": 12.0, "accuracy": 0.0}}, "rougeL is 12 instead of 41"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "says"), CASES)
def test_each_collapse_gives_exactly_its_warning(name: str, changes: dict[str, Any], says: str) -> None:
    [warning] = warnings(replace(SOUND, **changes))
    assert (warning["name"], says in warning["text"]) == (name, True), warning


def test_every_rule_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == set(RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"before": {}, "after": {}, "answers": [], "tasks": {}, "vocabulary": None},
        {"after": BEFORE | {"loss": 2.2 * (1 + 1e-5)}},  # a different order of sums, or weights that hardly changed
        # With a scheduled alpha, the totals weight the tasks differently; the label loss is better.
        {"before": BEFORE | {"alpha": 0.1}, "after": AFTER | {"alpha": 0.9, "loss": 3.0}},
        {"steps": steps(2.2, 2.0, 2.9)},  # one hard batch at the end, and the validation loss fell
        {"steps": [*FALLING[:5], *steps(1.4, grad_norm=0.0)]},
        {"steps": [*steps(2.2, grad_norm=None), *FALLING]},  # fp16 searches for its loss scale
        {"answers": [replace(one, reference="no", prediction="no") for one in ANSWERS]},
        {"answers": [*ANSWERS, replace(ANSWERS[0], prediction="")]},
        {"export": {"rougeL": 40.0}},
        # One-word answers have no pairs of words, and answers without a letter no words at all.
        {"before": {}, "after": {"loss": 0.1, "rouge1": 100.0, "rouge2": 0.0, "rougeL": 100.0, "accuracy": 1.0},
         "answers": answers("yes yes no maybe no no", "yes yes no maybe no no")},
        {"before": {}, "after": {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0, "accuracy": 1.0},
         "answers": answers("+ - + -", "+ - + -")},
        {"before": {"entity_f1": 0.0, "accuracy": 0.0}, "after": {"entity_f1": 0.0, "accuracy": 0.0}},
        {"before": {"rouge1": 100.0, "accuracy": 1.0}, "after": {"rouge1": 0.0, "accuracy": 0.0},
         "answers": answers("yes", "no")},
        {"answers": answers("no no no no no no no yes", "no no no no no no no no")},  # most rows have the same class
        {"answers": answers("no yes", "no no")},
        {"answers": answers("no no no no", "no no no no")},
        # A model with nothing left to learn: losses near 0 differ by rounding.
        {"before": {"loss": 2e-4}, "after": {"loss": 6e-4}, "steps": steps(2e-4, 3e-4, 9e-4, 9e-4, grad_norm=0.0),
         "export": {"loss": 9e-4}},
        {"before": {"loss": 0.0}, "after": {"loss": 0.0}, "steps": steps(0.0, 0.0, grad_norm=0.0)},
        {"before": {"loss": 2.2}, "after": {"loss": 2.202}},  # a first small step
        {"before": {}, "after": {}, "steps": steps(2.2, 2.6)},  # two batches
        {"before": {}, "after": {}, "steps": steps(2.2, 1.9, 2.0, 1.7, 2.5)},
        {"after": AFTER | {"accuracy": 0.5}, "export": {"accuracy": 0.25},
         "answers": answers("no yes yes no", "no no yes yes")},
        {"answers": [Answer("Correct: the patiant has fever and a cough", "the patient has fever and a cough",
                            "the patiant has fever and a cough")] * 3},
    ],
)  # fmt: skip
def test_a_sound_run_has_no_warning(changes: dict[str, Any]) -> None:
    assert names(replace(SOUND, **changes)) == []


def test_a_learning_rate_of_100_in_the_quickstart() -> None:
    """Use the numbers of that run: loss 2.22, 26.8, 10.80, no gradient, empty predictions."""
    destroyed = replace(
        SOUND,
        steps=[*steps(2.22, 26.8, 14.0), *steps(10.9, 10.8, 10.8, grad_norm=0.0)],
        after=AFTER | {"loss": 10.8, "loss_label": 10.8, "rougeL": 0.0, "entity_f1": 0.0},
        answers=said("", "", ""),
    )
    assert names(destroyed) == [
        "validation_loss_rose",
        "training_loss_rose",
        "no_better_than_guessing",
        "zero_gradients",
        "empty_predictions",
        "metric_fell_to_zero",
    ]


def test_no_text_of_a_record_is_in_a_warning() -> None:
    for changes in (said("fever", "fever", "fever"), said("user\nfever for two days", "user\nno cough", "x")):
        for warning in warnings(replace(SOUND, answers=changes)):
            assert not {"fever", "cough"} & set(warning["text"].split())
