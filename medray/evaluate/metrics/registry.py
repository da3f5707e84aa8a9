"""All metrics by name: what each one needs and how it compares."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from medray.evaluate.metrics import (
    answers,
    bertscore,
    bleu,
    choices,
    entities,
    extraction,
    labels,
    lengths,
    rouge,
    sections,
)
from medray.evaluate.metrics.measured import Measured
from medray.evaluate.metrics.rows import MetricError, Rows, Settings

PREDICTIONS, REFERENCES, ENTITIES, OPTIONS = "predictions", "references", "entities", "option_logprobs"
_TEXTS = (PREDICTIONS, REFERENCES)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. measure: rows and settings → statistics. how: its definition in one sentence. needs: columns of the rows."""

    measure: Callable[[Rows, Settings], Measured]
    how: str
    needs: tuple[str, ...] = _TEXTS


REGISTRY: dict[str, Metric] = {
    "rouge": Metric(rouge.rouge, "F-measure of ROUGE-1, -2, -L and -Lsum, stemmed, mean over rows, x 100"),
    "rouge_unstemmed": Metric(rouge.rouge_unstemmed, "ROUGE without a stemmer, mean over rows, x 100"),
    "bleu": Metric(bleu.bleu, "BLEU of the corpus as sacrebleu computes it, 0 to 100"),
    "accuracy": Metric(answers.accuracy, "share of answers equal to the reference after strip and NFKC"),
    "exact_match": Metric(
        answers.exact_match,
        "share of answers equal to the reference in lower case, without punctuation, articles and surplus blanks",
    ),
    "label_accuracy": Metric(
        labels.label_accuracy, "share of answers that name the right label; unparsed answers are wrong"
    ),
    "equation_accuracy": Metric(
        answers.equation_accuracy, "share of equations with the reference's value, within 1e-6"
    ),
    "choice": Metric(
        choices.choice, "share of answers that name the right letter; unparsed answers are wrong"
    ),
    "choice_logprob": Metric(
        choices.choice_logprob,
        "share of rows whose most probable option is the right one",
        (REFERENCES, OPTIONS),
    ),
    "ner_f1": Metric(extraction.ner_f1, "micro F1 of the entities in JSON lists"),
    "re_f1": Metric(extraction.re_f1, "micro F1 of the relations in JSON lists"),
    "icd_f1": Metric(extraction.icd_f1, "micro F1 of ICD-10 codes, and of their first three characters"),
    "entity_f1": Metric(
        entities.entity_f1,
        "micro F1 of findings with their assertion, present or absent",
        (*_TEXTS, ENTITIES),
    ),
    "sections": Metric(sections.sections, "ROUGE of each section of a note, x 100"),
    "bertscore": Metric(bertscore.bertscore, "greedy cosine of token embeddings of a local encoder"),
    "length": Metric(lengths.length, "words of answers and references, and empty answers", (PREDICTIONS,)),
}

# Metrics that medray does not compute, and what to do instead.
REFUSED = {
    "bleurt": "score the file with Google's package bleurt and its checkpoint BLEURT-20, which need TensorFlow; here, use "
    "bertscore",
    "umls_f1": "link concepts with QuickUMLS or scispacy and a licensed UMLS release, write them as JSON lists, and use "
    "ner_f1",
}


def metric(name: str) -> Metric:
    """Return the metric with this name. Raises MetricError that names the nearest one, or the way to a refused one."""
    if name in REGISTRY:
        return REGISTRY[name]
    plain = name.strip().lower().replace("-", "_")
    if plain in REFUSED:
        raise MetricError(f"medray does not compute {plain}", REFUSED[plain])
    near = difflib.get_close_matches(plain, REGISTRY, n=1)
    raise MetricError(
        f"no metric is named {name[:80]!r}; the metrics are {', '.join(REGISTRY)}",
        f"did you mean {near[0]}?" if near else "use one of these names",
    )
