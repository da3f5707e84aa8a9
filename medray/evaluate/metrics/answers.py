"""Metrics of short answers: equal to the reference or not, as text or as the value of an equation."""

from __future__ import annotations

import re
import unicodedata

from medray.data import arithmetic
from medray.evaluate.metrics.measured import Measured, mean
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import normalised

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def accuracy(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows equal to the reference after `strip` and NFKC, 0 to 1."""
    return mean(
        ["accuracy"],
        [
            [normalised(said).strip() == normalised(truth.text).strip()]
            for said, truth in zip(rows.said, rows.truths, strict=True)
        ],
    )


def exact_match(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows equal to the reference after `bare`, 0 to 1."""
    pairs = zip(rows.said, rows.truths, strict=True)
    return mean(["exact_match"], [[bare(said) == bare(truth.text)] for said, truth in pairs])


def bare(text: str) -> str:
    """Return `text` in NFKC and lower case, without punctuation, the articles a, an, the, and surplus white space.

    For ASCII text, this is the normalisation of SQuAD (Rajpurkar et al. 2016).
    """
    text = normalised(text).lower()
    if text.isascii():
        kept = re.sub(r"[!-/:-@\[-`{-~]", "", text)
    else:
        kept = "".join(each for each in text if not unicodedata.category(each).startswith(("P", "S")))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def equation_accuracy(rows: Rows, settings: Settings) -> Measured:
    """Return the share of rows whose equation has the reference's value, and the share of answers that are no equation.

    Both texts are read by medray's parser of arithmetic; no code is executed. Values are equal within 1e-6, and an answer
    that is no equation is wrong.
    """
    wanted = [arithmetic.value(truth.text) for truth in rows.truths]
    if None in wanted:
        raise MetricError(
            f"{wanted.count(None)} of {len(wanted)} references are no equation that can be evaluated "
            f"(the first is row {wanted.index(None) + 1})",
            "use references such as ( 8.0 - 2.0 ) * 3, or another metric",
        )
    found = [arithmetic.value(said) for said in rows.said]
    return mean(
        ["equation_accuracy", "equation_unparsed"],
        [
            [
                have is not None and want is not None and abs(have - want) <= arithmetic.TOLERANCE,
                have is None,
            ]
            for have, want in zip(found, wanted, strict=True)
        ],
    )
