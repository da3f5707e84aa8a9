"""Multiple choice: by the letter that an answer names, or by the log-probability of each option."""

from __future__ import annotations

import math
import re

import numpy as np

from medray.evaluate.metrics.labels import of_labels
from medray.evaluate.metrics.measured import Measured, mean
from medray.evaluate.metrics.rows import MetricError, Options, Reference, Rows, Settings
from medray.evaluate.words import normalised

LETTERS = "ABCDEFGHIJ"
DOUBTFUL_ROWS = 20  # with fewer, the first option may never be the right one by chance
_MARK = r"[\s(\[*\"'`]*"
_WHOLE = re.compile(rf"{_MARK}([A-Ja-j])[\s)\].:,*\"'`]*")
_FIRST = re.compile(
    rf"{_MARK}([A-J])(?:[).:\]*,]|\s+[-–—]\s|\s*\n|\s*$)(?!\s*(?:or|and|/|,)?\s*[(\[]?[A-J](?![\w'’ ]))"
)
_STATED = re.compile(
    r"(?i:(?:answer|option|choice)(?:\s+(?:is|would be|should be))?(?:\s+(?:option|choice))?)"
    rf"\s*[:=]?{_MARK}([A-J])(?![\w'’])"
)
_BRACKETED = re.compile(r"\(([A-J])\)")


def choice(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows whose answer names the reference's letter, and the share that names no single letter.

    The reference is a letter ("B"), begins with one ("B) aspirin"), or is the number of the option, counted from
    `settings.first_option`.
    `choice_macro_f1` is the mean F1 of the letters. An unparsed answer counts as wrong.
    """
    wanted = [LETTERS[index] for index in right_options(rows.truths, settings)]
    found = [parse_letter(text) for text in rows.said]
    used = sorted({*wanted, *(letter for letter in found if letter)})
    return of_labels("choice", wanted, found, {letter: letter for letter in used})


def parse_letter(text: str) -> str | None:
    """Return the letter A to J that an answer names; None if it names none, or several.

    In this order: the whole answer ("b", "(B)", "B."), the last "answer is B" or "option B", an answer that begins with a
    marked letter ("B) aspirin"), and the only letter in brackets.
    """
    text = normalised(text).strip()
    if whole := _WHOLE.fullmatch(text):
        return whole[1].upper()
    if stated := _STATED.findall(text):
        return str(stated[-1])
    if first := _FIRST.match(text):
        return first[1]
    bracketed = set(_BRACKETED.findall(text))
    return bracketed.pop() if len(bracketed) == 1 else None


def right_options(references: tuple[Reference, ...], settings: Settings) -> list[int]:
    """Return the index of the right option of each row, from 0.

    Raises MetricError if a reference names none, and for numbers without a 0 in many rows if it is not said whether they
    are counted from 0: counted from 1, all would be wrong by one.
    """
    texts = [truth.text.strip() for truth in references]
    numbers = [int(text) for text in texts if re.fullmatch(r"[0-9]", text)]
    first = settings.first_option or 0
    if settings.first_option is None and len(numbers) >= DOUBTFUL_ROWS and 0 not in numbers:
        raise MetricError(
            f"{len(numbers)} references are the numbers {min(numbers)} to {max(numbers)}, and none is 0, so they may be "
            "counted from 1",
            "use --first-option 1 if the first option has the number 1, else --first-option 0",
        )
    found = [_right(text, first) for text in texts]
    known = [index for index in found if index is not None]
    if len(known) < len(found):
        raise MetricError(
            f"{len(found) - len(known)} of {len(found)} references name no option (the first is row "
            f"{found.index(None) + 1})",
            f"use a letter from A to {LETTERS[-1]}, or the number of the option and --first-option",
        )
    return known


def _right(text: str, first: int) -> int | None:
    if re.fullmatch(r"[0-9]", text):
        index = int(text) - first
        return index if index >= 0 else None
    letter = parse_letter(text)
    return None if letter is None else LETTERS.index(letter)


def choice_logprob(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows whose most probable option is the right one; of equal options, the first is taken.

    `choice_logprob_by_length_accuracy` compares the log-probability divided by the option's length, if lengths are given.
    """
    assert rows.options is not None
    right = right_options(rows.truths, settings)
    by_length = all(each.lengths is not None for each in rows.options)
    names = ["choice_logprob_accuracy"] + ["choice_logprob_by_length_accuracy"] * by_length
    values = []
    for number, (options, wanted) in enumerate(zip(rows.options, right, strict=True), 1):
        _check(options, wanted, number)
        scores = np.array(options.logprobs)
        hits = [float(scores.argmax() == wanted)]
        if by_length:
            hits.append(float((scores / np.array(options.lengths)).argmax() == wanted))
        values.append(hits)
    return mean(names, values)


def _check(options: Options, wanted: int, number: int) -> None:
    count = len(options.logprobs)
    if wanted >= count:
        raise MetricError(
            f"the reference of row {number} is option {wanted + 1}, but the row has {count} log-probabilities",
            "write one log-probability per option, in the order of the options",
        )
    if any(math.isnan(each) for each in options.logprobs):
        raise MetricError(
            f"a log-probability of row {number} is not a number", "leave such rows out, or score them again"
        )
    if options.lengths is not None and (
        len(options.lengths) != count or not all(length > 0 for length in options.lengths)
    ):
        raise MetricError(
            f"row {number} has {len(options.lengths)} lengths for {count} options, or one that is not above 0",
            "write the length of each option in option_lengths, or remove the column",
        )
