"""The metric of answers that name one of a few labels, such as yes, no or maybe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medray.evaluate.metrics.measured import OTHER, ClassCounts, Measured, Numbers, ratio
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import is_whole, lower, normalised

MOST_LABELS = 50
UNPARSED = "(unparsed)"


def label_accuracy(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows whose answer names the right label, and the share of answers that name no single label.

    An unparsed answer counts as wrong. `label_macro_f1` is the mean F1 of the labels. See `parse_label`.
    """
    wanted = [_label(truth.text) for truth in rows.truths]
    labels = tuple(map(_label, settings.labels)) or tuple(sorted({*wanted} - {""}))
    if len(labels) > MOST_LABELS or not labels:
        raise MetricError(
            f"label_accuracy compares labels, but the references are {len(labels)} different texts "
            f"(at most {MOST_LABELS})",
            "list the labels with --labels yes,no,maybe, or use exact_match for free text",
        )
    if outside := sum(text not in labels for text in wanted):
        raise MetricError(
            f"{outside} of {len(wanted)} references are none of the labels",
            "list all labels with --labels, separated by commas",
        )
    found = [parse_label(text, labels) for text in rows.said]
    return of_labels("label", wanted, found, _shown(labels, wanted, listed=bool(settings.labels)))


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that an answer names; None if it names none, or several.

    In this order: the whole answer; what follows "answer is" or "answer:", the last one; its beginning ("Yes, because …");
    the only label in the text. A list of labels ("yes or no", "yes/no") names none of them. labels: in lower case, see
    `_label`.
    """
    answer = _label(text)
    if answer in labels:
        return answer
    longest_first = sorted(labels, key=lambda label: (-len(label), label))
    starts = [0] + [match.end() for match in re.finditer(r"answer(?:\s+is)?\s*:?\s*[\"'(*]*", answer)]
    any_label = "|".join(map(re.escape, longest_first))
    more = re.compile(rf"(?:\s*,\s*(?:{any_label}))*\s*(?:[/|]|,?\s*\bor\b)\s*(?:{any_label})")
    found = []
    for start in starts:
        for label in longest_first:
            end = start + len(label)
            if answer.startswith(label, start) and is_whole(answer, start, end):
                follows = more.match(answer, end)
                if follows is None or not is_whole(answer, start, follows.end()):
                    found.append(label)
                break
    if found:
        return found[-1]
    named, rest = set[str](), answer
    for label in longest_first:
        begin = rest.find(label)
        while begin >= 0:
            end = begin + len(label)
            if is_whole(rest, begin, end):
                named.add(label)
                rest = f"{rest[:begin]}{chr(0) * len(label)}{rest[end:]}"
            begin = rest.find(label, begin + 1)
    return named.pop() if len(named) == 1 else None


def _label(text: str) -> str:
    return " ".join(lower(normalised(text)).split()).strip(" .,;:!?\"'()[]*")


def _shown(labels: Sequence[str], wanted: Sequence[str], *, listed: bool) -> dict[str, str]:
    """Return the name of each label in tables. A label that occurs once may be the text of a record: it has none."""
    counts = Counter(wanted)
    return {label: label if listed or counts[label] > 1 else OTHER for label in labels}


def of_labels(
    prefix: str, wanted: Sequence[str], found: Sequence[str | None], shown: dict[str, str]
) -> Measured:
    """Return accuracy, unparsed share and macro F1. The statistics count hits, predictions and references of each label."""
    names = list(shown)
    column = {label: place for place, label in enumerate(names)}
    counts = np.zeros((len(wanted), 3, len(names)))
    for row, (want, have) in enumerate(zip(wanted, found, strict=True)):
        counts[row, 2, column[want]] = 1
        if have is not None:
            counts[row, 1, column[have]] = 1
            counts[row, 0, column[have]] = have == want
    unparsed = np.array([have is None for have in found], np.float64)
    size = len(names)

    def numbers(sums: np.ndarray) -> Numbers:
        table = sums[..., : 3 * size].reshape(*sums.shape[:-1], 3, size)
        hits, predicted, there = (table[..., place, :] for place in range(3))
        rows = there.sum(axis=-1)
        known = (there > 0).sum(axis=-1)  # labels that no reference of a resample has do not count
        scores = np.where(there > 0, ratio(2 * hits, predicted + there), 0.0)
        return {
            f"{prefix}_accuracy": ratio(hits.sum(axis=-1), rows),
            f"{prefix}_macro_f1": ratio(scores.sum(axis=-1), known),
            f"{prefix}_unparsed": ratio(sums[..., -1], rows),
        }

    totals = counts.sum(axis=0).astype(int)
    classes: dict[str, ClassCounts] = {}
    for label in names:
        hits, predicted, there = (int(totals[place, column[label]]) for place in range(3))
        before = classes.get(shown[label], ClassCounts(0, 0, 0))
        classes[shown[label]] = ClassCounts(
            before.wanted + there, before.predicted + predicted, before.hits + hits
        )
    if unparsed.any():
        classes[UNPARSED] = ClassCounts(0, int(unparsed.sum()), 0)
    return Measured(
        statistics=np.column_stack([counts.reshape(len(wanted), -1), unparsed]),
        numbers=numbers,
        classes=classes,
    )
