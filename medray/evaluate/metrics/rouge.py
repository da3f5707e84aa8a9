"""ROUGE: overlap of words with the reference (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

Scores are those of rouge_score. `rouge` stems English words, as in training; `rouge_unstemmed` does not. In ASCII text,
words are split as in rouge_score. Letters of other scripts count too, and each character of a script without spaces, such
as Chinese, counts as a word (see `words`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from medray.evaluate.metrics.measured import Measured, Numbers, ratio
from medray.evaluate.metrics.rows import Rows, Settings
from medray.evaluate.words import words

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
DIGITS = 4
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[ \t]+(?=[\"'(\[¿¡«„“]?(?P<first>[A-Z0-9]|[^\W_\x00-\x7f]))|(?<=[。！？।؟])[ \t]*"
)
_ABBREVIATION = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|vs|No|approx|e\.g|i\.e)|\b[A-Z])\.$")


def rouge(rows: Rows, settings: Settings) -> Measured:
    """Return the F-measures of rouge1, rouge2, rougeL and rougeLsum, and rouge_avg, the mean of the first three; x 100."""
    return _measured(rows, "", stemmed=True)


def rouge_unstemmed(rows: Rows, settings: Settings) -> Measured:
    """Return the numbers of `rouge` with words as they are."""
    return _measured(rows, "_unstemmed", stemmed=False)


def scorer(*, stemmed: bool = True, kinds: tuple[str, ...] = KINDS) -> Callable[[str, str], list[float]]:
    """Return a function of (prediction, reference) that gives the F-measure of each kind, 0 to 1."""
    from rouge_score import rouge_scorer

    score = rouge_scorer.RougeScorer(list(kinds), tokenizer=_Words(stemmed=stemmed)).score

    def measures(prediction: str, reference: str) -> list[float]:
        found = score(sentence_lines(reference), sentence_lines(prediction))
        return [float(found[kind].fmeasure) for kind in kinds]

    return measures


def _measured(rows: Rows, suffix: str, *, stemmed: bool) -> Measured:
    measures = scorer(stemmed=stemmed)
    found = np.array(
        [measures(said, truth.text) for said, truth in zip(rows.said, rows.truths, strict=True)]
    ).reshape(-1, len(KINDS))

    def numbers(sums: np.ndarray) -> Numbers:
        means = {
            kind: 100 * ratio(sums[..., place], sums[..., len(KINDS)]) for place, kind in enumerate(KINDS)
        }
        means["rouge_avg"] = (means["rouge1"] + means["rouge2"] + means["rougeL"]) / 3
        return {f"{name}{suffix}": value for name, value in means.items()}

    return Measured(statistics=np.column_stack([found, np.ones(len(found))]), numbers=numbers, digits=DIGITS)


class _Words:
    """A tokenizer for rouge_score that supports all scripts, and stems as rouge_score does."""

    def __init__(self, *, stemmed: bool) -> None:
        from rouge_score import tokenizers

        self._stemmer = tokenizers.porter.PorterStemmer() if stemmed else None

    def tokenize(self, text: str) -> list[str]:
        return words(text, self._stemmer)


def sentence_lines(text: str) -> str:
    """Return `text` with one sentence per line, for rougeLsum.

    Existing line breaks are kept. "Dr." and initials do not end a sentence.
    """
    lines, begin = [], 0
    for gap in _SENTENCE_END.finditer(text):
        if (gap["first"] or "").islower():  # a lower-case letter that is not ASCII
            continue
        if not _ABBREVIATION.search(text, begin, gap.start()):
            lines.append(text[begin : gap.start()])
            begin = gap.end()
    return "\n".join([*lines, text[begin:]])
