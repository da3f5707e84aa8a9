"""Metrics of short answers, labels and choices, against calculations by hand and by scikit-learn."""

from __future__ import annotations

import random
import re
import string

import pytest
from metric_rows import measured, rows
from sklearn.metrics import accuracy_score, f1_score

from medray.evaluate.metrics.answers import bare
from medray.evaluate.metrics.choices import parse_letter
from medray.evaluate.metrics.labels import UNPARSED, parse_label
from medray.evaluate.metrics.measured import OTHER
from medray.evaluate.metrics.registry import REFUSED, REGISTRY, metric
from medray.evaluate.metrics.rows import MetricError, Options, Settings


def squad(text: str) -> str:
    """Return a text as the evaluation of SQuAD compares it, written from its description."""
    text = "".join(each for each in text.lower() if each not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def test_exact_match_equals_the_normalisation_of_squad() -> None:
    draw = random.Random(5)
    for _ in range(300):
        text = "".join(draw.choices([*string.printable, " the ", " an ", "A "], k=20))
        assert bare(text) == squad(text)
    got = measured("exact_match", ["The fever.", "no", "Ja!"], ["a FEVER", "nope", "ja"])
    assert got.values() == {"exact_match": pytest.approx(2 / 3)}
    assert [row["exact_match"] for row in got.row_values()] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("one", "other"), [("是，发热。", "是发热"), ("¿Fiebre?", "fiebre"), ("ＹＥＳ", "yes")]
)
def test_exact_match_of_other_scripts(one: str, other: str) -> None:
    assert bare(one) == bare(other)


LABELS = ("maybe", "no", "yes")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes", "yes"),
        ("**no**.", "no"),
        ("Yes, because there is no evidence against it", "yes"),
        ("There is little evidence. The answer is no.", "no"),
        ("Answer: maybe", "maybe"),
        ("It is maybe so", "maybe"),
        ("not known", None),  # "no" only inside a word
        ("either yes or no", None),
        ("yes or no", None),
        ("Yes, no, or maybe", None),
        ("answer: yes/no/maybe", None),
        ("yes, no evidence is against it", "yes"),
        ("yes or nothing", "yes"),
        ("", None),
        ("the answer is yes. Final answer: no", "no"),
    ],
)
def test_parse_label(text: str, label: str | None) -> None:
    assert parse_label(text, LABELS) == label


def test_label_accuracy_equals_scikit_learn() -> None:
    draw = random.Random(3)
    wanted = draw.choices(LABELS, k=200)
    said = draw.choices([*LABELS, "unknown"], k=200)
    got = measured("label_accuracy", said, wanted)
    assert got.values() == pytest.approx(
        {
            "label_accuracy": accuracy_score(wanted, said),
            "label_macro_f1": f1_score(wanted, said, labels=LABELS, average="macro"),
            "label_unparsed": said.count("unknown") / 200,
        }
    )
    per_label = f1_score(wanted, said, labels=LABELS, average=None)
    assert [got.classes[label].f1 for label in LABELS] == pytest.approx(list(per_label))
    assert got.classes[UNPARSED].predicted == said.count("unknown")


def test_a_label_that_occurs_once_is_not_shown_because_it_may_be_text_of_a_record() -> None:
    got = measured("label_accuracy", ["yes"] * 3, ["yes", "yes", "Mr Miller has a rash"])
    assert list(got.classes) == [OTHER, "yes"]
    listed = measured("label_accuracy", ["yes"], ["yes"], Settings(labels=("yes", "no")))
    assert set(listed.classes) == {"yes", "no"}


def test_labels_that_are_free_text_or_not_listed_are_refused() -> None:
    with pytest.raises(MetricError, match="the references are 60 different texts"):
        measured("label_accuracy", ["x"] * 60, [f"text {n}" for n in range(60)])
    with pytest.raises(MetricError, match="1 of 2 references are none of the labels"):
        measured("label_accuracy", ["yes"] * 2, ["yes", "other"], Settings(labels=("yes", "no")))


def test_equation_accuracy_by_hand() -> None:
    wanted = ["( 8.0 - 2.0 ) * 3", "10 / 4", "1 + 1", "2"]
    said = ["18", "2.5000000001", "1 + 2", "__import__('os')"]
    assert measured("equation_accuracy", said, wanted).values() == {
        "equation_accuracy": 0.5,
        "equation_unparsed": 0.25,
    }
    with pytest.raises(MetricError, match="1 of 1 references are no equation"):
        measured("equation_accuracy", ["1"], ["eighteen"])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(c)", "C"),
        ("b.", "B"),
        ("B) aspirin", "B"),
        ("The answer is (D).", "D"),
        ("I think option C, because A is wrong", "C"),
        ("Answer: A. Wait, the correct answer is B", "B"),
        ("It must be (E)", "E"),
        ("A patient with fever", None),
        ("(A) or (B)", None),
        ("the answer is Aspirin", None),
        ("aspirin", None),
        ("", None),
    ],
)
def test_parse_letter(text: str, letter: str | None) -> None:
    assert parse_letter(text) == letter


def test_choice_reads_letters_and_indices() -> None:
    got = measured("choice", ["A", "B) x", "unsure", "D"], ["0", "B", "C) y", "A"])
    assert got.values() == pytest.approx(
        {"choice_accuracy": 0.5, "choice_macro_f1": (2 / 3 + 1 + 0) / 3, "choice_unparsed": 0.25}
    )
    with pytest.raises(MetricError, match="1 of 2 references name no option"):
        measured("choice", ["A", "A"], ["A", "aspirin"])


def test_numbers_that_may_be_counted_from_1_are_refused() -> None:
    """Some files of MedMCQA count `cop` from 1; read from 0, every answer would be wrong."""
    wanted = ["1", "2", "3", "4"] * 5
    with pytest.raises(MetricError, match="the numbers 1 to 4, and none is 0"):
        measured("choice", ["A"] * 20, wanted)
    for first, share in ((1, 0.25), (0, 0.0)):
        got = measured("choice", ["A"] * 20, wanted, Settings(first_option=first))
        assert got.values()["choice_accuracy"] == share
    with pytest.raises(MetricError, match="1 of 1 references name no option"):
        measured("choice", ["A"], ["0"], Settings(first_option=1))


def test_choice_by_log_probability() -> None:
    options = (
        Options((-4.0, -2.0, -3.0), (1, 1, 10)),  # the second; by length, the third
        Options((-1.0, -1.0), (1, 1)),  # equal: the first
    )
    given = rows(["", ""], ["B", "A"], options=options)
    assert REGISTRY["choice_logprob"].measure(given, Settings()).values() == {
        "choice_logprob_accuracy": 1.0,
        "choice_logprob_by_length_accuracy": 0.5,
    }
    bad = rows([""], ["D"], options=(Options((-1.0, -2.0)),))
    with pytest.raises(MetricError, match="option 4, but the row has 2 log-probabilities"):
        REGISTRY["choice_logprob"].measure(bad, Settings())


def test_unknown_and_refused_metrics() -> None:
    with pytest.raises(MetricError, match=r"did you mean rouge\?"):
        metric("rogue")
    for name in REFUSED:
        with pytest.raises(MetricError, match=f"medray does not compute {name}"):
            metric(name.upper())
