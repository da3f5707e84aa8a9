"""Metrics that compare generated text with references. They need text only: no model, no token ids, no network.

| name | values | definition |
|---|---|---|
| `rouge` | rouge1, rouge2, rougeL, rougeLsum, rouge_avg | F-measure, stemmed, mean over rows, x 100 |
| `accuracy` | accuracy | share of rows equal to the reference after `strip` and NFKC, 0 to 1 |
| `entity_f1` | entity_precision, entity_recall, entity_f1 | findings with assertion, micro average, 0 to 1 |

ROUGE follows Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", as implemented by rouge_score.
`rouge_avg` is the mean of rouge1, rouge2 and rougeL. In ASCII text, words are split as in rouge_score. Letters of other
scripts count too, and each character of a script without spaces, such as Chinese, counts as a word (see `words`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from medray.config.eval import NUMBERS
from medray.data.reasoning import CLOSE, answer_only
from medray.evaluate.assertion import assertion
from medray.evaluate.words import comparable, is_whole, lower, normalised, words

METRICS: tuple[str, ...] = tuple(NUMBERS)

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[ \t]+(?=[\"'(\[¿¡«„“]?(?P<first>[A-Z0-9]|[^\W_\x00-\x7f]))|(?<=[。！？।؟])[ \t]*"
)
_ABBREVIATION = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|vs|No|approx|e\.g|i\.e)|\b[A-Z])\.$")


@dataclass(frozen=True)
class Entity:
    """A finding in a reference answer. assertion: `present` or `absent`. type: kind of finding; it is not compared."""

    text: str
    assertion: str = "present"
    type: str = ""

    def __post_init__(self) -> None:
        if self.assertion not in ("present", "absent"):
            raise ValueError(f"an entity's assertion must be present or absent, not {self.assertion!r}")
        if not self.text.strip():
            raise ValueError("an entity of a reference has no text: add its text, or remove the entity")


@dataclass(frozen=True)
class Reference:
    """The reference answer of a row. entities: None if they were not annotated, () if there are none."""

    text: str
    entities: tuple[Entity, ...] | None = None


def score(
    metrics: Sequence[str], predictions: Sequence[str], references: Sequence[Reference]
) -> dict[str, float]:
    """Compute metrics over all rows, comparing `predictions[i]` with `references[i]`.

    Only answers are compared: reasoning before them (`<think>…</think>`) is removed from both.

    Raises ValueError for a metric that is not in `METRICS`, for zero rows, for different numbers of rows, and for
    `entity_f1` if a reference has no annotated entities, or none of them has an entity. No message contains text of a
    row.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"no metric is named {unknown[0]!r}; the metrics are {', '.join(METRICS)}")
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} references")
    if not predictions:
        raise ValueError("metrics need at least one row, but there are none")
    references = [replace(reference, text=answer_only(reference.text)) for reference in references]
    # Some prompts end with the tag that opens reasoning.
    predictions = [
        answer_only(text, opened=CLOSE not in reference.text)
        for text, reference in zip(predictions, references, strict=True)
    ]
    scorers: dict[str, Callable[[Sequence[str], Sequence[Reference]], dict[str, float]]] = {
        "rouge": _rouge,
        "accuracy": _accuracy,
        "entity_f1": _entity_f1,
    }
    return {key: value for name in metrics for key, value in scorers[name](predictions, references).items()}


def _rouge(predictions: Sequence[str], references: Sequence[Reference]) -> dict[str, float]:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(_ROUGE), tokenizer=_Words())
    rows = [
        scorer.score(_sentence_lines(reference.text), _sentence_lines(prediction))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    means = {name: 100 * fmean(row[name].fmeasure for row in rows) for name in _ROUGE}
    means["rouge_avg"] = fmean(means[name] for name in ("rouge1", "rouge2", "rougeL"))
    return {name: round(value, 4) for name, value in means.items()}


class _Words:
    """A tokenizer for rouge_score that supports all scripts, and stems as rouge_score does."""

    def __init__(self) -> None:
        from rouge_score import tokenizers

        self._stemmer = tokenizers.porter.PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        return words(text, self._stemmer)


def _sentence_lines(text: str) -> str:
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


def _accuracy(predictions: Sequence[str], references: Sequence[Reference]) -> dict[str, float]:
    pairs = zip(predictions, references, strict=True)
    return {
        "accuracy": fmean(
            normalised(prediction).strip() == normalised(reference.text).strip()
            for prediction, reference in pairs
        )
    }


def _entity_f1(predictions: Sequence[str], references: Sequence[Reference]) -> dict[str, float]:
    """Compare the sets of (lower-case text, assertion) of each row; hits and misses are summed over rows before dividing.

    The entities of a prediction are found with a dictionary: every distinct entity text of all given references. So an
    invented finding that no reference names is not counted, and scores are comparable only over the same references. A
    finding that a prediction both affirms and denies counts twice, and at most one of the two is right.
    """
    wanted = [
        None
        if reference.entities is None
        else {(_surface(entity.text), entity.assertion) for entity in reference.entities}
        for reference in references
    ]
    if None in wanted:
        raise ValueError(
            f"entity_f1 needs entities in every reference, but {wanted.count(None)} of {len(wanted)} rows have none "
            f"(the first is row {wanted.index(None)}): annotate them, or use an empty list for a row without a finding"
        )
    surfaces = sorted({text for row in wanted for text, _ in row or ()}, key=lambda text: (-len(text), text))
    if not surfaces:
        raise ValueError(
            f"entity_f1 has nothing to compare: none of the {len(wanted)} references names an entity"
        )
    hits = found = there = 0
    for text, want in zip(predictions, wanted, strict=True):
        prediction = comparable(text)
        have = {(surface, assertion(prediction, *span)) for surface, span in _matches(prediction, surfaces)}
        want = want or set()
        hits, found, there = hits + len(have & want), found + len(have), there + len(want)
    return {
        "entity_precision": hits / found if found else 0.0,
        "entity_recall": hits / there,
        "entity_f1": 2 * hits / (found + there),
    }


def _matches(text: str, surfaces: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the spans of `surfaces`, given longest first, at word boundaries of `text`. Spans do not overlap."""
    open_text = re.sub(r"\s", " ", lower(text))  # positions are the same as in `text`
    for surface in surfaces:
        begin = open_text.find(surface)
        while begin >= 0:
            end = begin + len(surface)
            if is_whole(open_text, begin, end):
                yield surface, (begin, end)
                open_text = f"{open_text[:begin]}{chr(0) * len(surface)}{open_text[end:]}"
            begin = open_text.find(surface, begin + 1)


def _surface(text: str) -> str:
    bare = comparable(text)
    return " ".join(lower(bare if bare.strip() else normalised(text)).split())
