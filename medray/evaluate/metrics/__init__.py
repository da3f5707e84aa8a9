"""Metrics that compare generated text with references. All but BERTScore need text only: no model and no network.

| name | values | definition |
|---|---|---|
| `rouge` | rouge1, rouge2, rougeL, rougeLsum, rouge_avg | F-measure, stemmed, mean over rows, x 100 |
| `accuracy` | accuracy | share of rows equal to the reference after `strip` and NFKC, 0 to 1 |
| `entity_f1` | entity_precision, entity_recall, entity_f1 | findings with assertion, micro average, 0 to 1 |
| `bleu` | bleu | over the corpus, as sacrebleu computes it, 0 to 100 |
| `exact_match` | exact_match | share of rows equal to the reference without case, punctuation and articles, 0 to 1 |
| `ner_f1`, `re_f1` | `<ner or re>_` precision, recall, f1, exact, unparsed | items of JSON lists, micro average, 0 to 1 |

These are the metrics of `eval.metrics`, which a run computes itself. `registry` has all of them, for `medray eval`. To add
one: write a function of (Rows, Settings) that returns a Measured, in the file of its family, and enter it in `registry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medray.config.eval import NUMBERS
from medray.evaluate.metrics.registry import metric
from medray.evaluate.metrics.rows import Entity, MetricError, Reference, Rows, Settings, answers_alone

__all__ = ["METRICS", "Entity", "MetricError", "Reference", "score"]

METRICS: tuple[str, ...] = tuple(NUMBERS)


def score(
    metrics: Sequence[str], predictions: Sequence[str], references: Sequence[Reference]
) -> dict[str, float]:
    """Compute metrics over all rows, comparing `predictions[i]` with `references[i]`.

    Only answers are compared: reasoning before them (`<think>…</think>`) is removed from both.

    Raises ValueError for a metric that is not in `METRICS`, for zero rows, for different numbers of rows, and a
    MetricError if a metric cannot compare these rows: for `entity_f1` if a reference has no annotated entities, or none of
    them has an entity, for `ner_f1` and `re_f1` if a reference has no JSON list. No message contains text of a row.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"no metric is named {unknown[0]!r}; the metrics are {', '.join(METRICS)}")
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} references")
    if not predictions:
        raise ValueError("metrics need at least one row, but there are none")
    said, wanted = answers_alone(predictions, [reference.text for reference in references])
    assert wanted is not None
    rows = Rows(
        ids=tuple(map(str, range(len(said)))),
        predictions=said,
        references=tuple(
            replace(reference, text=text) for reference, text in zip(references, wanted, strict=True)
        ),
    )
    settings = Settings()
    found: dict[str, float] = {}
    for name in metrics:
        found |= metric(name).measure(rows, settings).values()
    return found
