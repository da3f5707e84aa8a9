"""Preference pairs from the answers that a model samples: a bad answer to a prompt is rejected, the gold answer chosen.

Several answers to each prompt are sampled by the job of `medray predict`. A metric compares them with the gold answer.
The answers that differ from it are ranked, and the worst, or one of another rank, is the rejected answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medray.data.encode.encoder import EncodeSpec
from medray.data.records import Record
from medray.errors import InputError
from medray.evaluate.metrics.registry import metric
from medray.evaluate.metrics.rows import Entity, MetricError, Reference, Rows, Settings, answers_alone
from medray.pairs.build import Pair, pair_row, same_text

SAMPLED = "sampled"
# Metrics that can rank answers, and which of their numbers does. Higher is better in all of them.
RANKING = {
    "rouge": "rouge_avg",
    "bleu": "bleu",
    "bertscore": "bertscore_f1",
    "accuracy": "accuracy",
    "exact_match": "exact_match",
    "equation_accuracy": "equation_accuracy",
    "choice": "choice_accuracy",
    "ner_f1": "ner_f1",
    "re_f1": "re_f1",
    "icd_f1": "icd_f1",
    "entity_f1": "entity_f1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledOptions:
    """The settings of `sampled_pairs`.

    samples: answers to each prompt. metric: a name of RANKING. rank: 1 rejects the worst answer, 2 the second worst; a
    prompt with fewer wrong answers gives its best one. per_record: the most pairs of one prompt, from `rank` upwards.
    origin: facts about the model and the sampling that are stored with each pair.
    """

    samples: int
    metric: str = "rouge"
    rank: int = 1
    per_record: int = 1
    origin: Mapping[str, Any]


@dataclass
class SampledCounts:
    """Counts of the records that were asked.

    without_gold: records without an answer of their own. without_pair: records whose samples all equal the gold answer,
    are empty or cannot be scored. unfinished: rejected answers that were cut at the length limit. scores: sum over the
    pairs of the rejected answer's number. length_ratios: sum of len(rejected) / len(chosen), in characters.
    """

    records: int = 0
    bad_rows: int = 0
    without_gold: int = 0
    without_pair: int = 0
    pairs: int = 0
    unfinished: int = 0
    scores: float = 0.0
    length_ratios: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "bad_rows": self.bad_rows,
            "without_gold": self.without_gold,
            "without_pair": self.without_pair,
            "pairs": self.pairs,
            "by_strategy": {SAMPLED: self.pairs},
            "unfinished": self.unfinished,
            "mean_score": self.scores / self.pairs if self.pairs else None,
            "mean_length_ratio": self.length_ratios / self.pairs if self.pairs else None,
        }


def check_ranking(name: str) -> None:
    """Raise InputError if a metric cannot rank answers."""
    if name not in RANKING:
        raise InputError(
            "this metric cannot rank the answers to one prompt",
            key="--metric",
            value=name[:80],
            fix=f"use one of: {', '.join(RANKING)}",
        )


def sampled_pairs(
    parts: Iterable[tuple[str, Sequence[Record], Sequence[Mapping[str, Any]]]],
    spec: EncodeSpec,
    options: SampledOptions,
    counts: SampledCounts,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pairs file, in the order of the records; updates `counts`.

    parts: (name of the source, records, lines of predictions.jsonl); `samples` lines belong to each record. A row has
    the keys of `build.pairs`, and `metric`, `score`, `rank`, `sample` (number of the sample) and those of `origin`.
    Raises InputError if the metric cannot compare these answers.
    """
    for source, records, lines in parts:
        groups = [lines[start : start + options.samples] for start in range(0, len(lines), options.samples)]
        counts.records += len(records)
        asked = [
            (record, group)
            for record, group in zip(records, groups, strict=True)
            if str(group[0].get("reference") or "").strip()
        ]
        counts.without_gold += len(records) - len(asked)
        scores = iter(_scores([line for _, group in asked for line in group], options.metric))
        for record, group in asked:
            ranked = _ranked(group, [next(scores) for _ in group])
            counts.without_pair += not ranked
            first = min(options.rank, len(ranked)) - 1
            for rank, (score, number) in list(enumerate(ranked, 1))[max(first, 0) :][: options.per_record]:
                line = group[number]
                pair = Pair(str(line["reference"]), str(line["prediction"]), SAMPLED)
                counts.pairs += 1
                counts.unfinished += line.get("finish") == "length"
                counts.scores += score
                counts.length_ratios += len(pair.rejected) / len(pair.chosen)
                yield pair_row(record, pair, spec) | {
                    "id": f"{record.origin.id}#{SAMPLED}-{number}",
                    "source": source,
                    "metric": RANKING[options.metric],
                    "score": round(score, 6),
                    "rank": rank,
                    "sample": number,
                    **options.origin,
                }


def _ranked(group: Sequence[Mapping[str, Any]], scores: Sequence[float | None]) -> list[tuple[float, int]]:
    """Return (score, number) of the distinct answers that differ from the gold answer, worst first."""
    seen = {same_text(str(group[0]["reference"])), ""}
    found = []
    for number, (line, score) in enumerate(zip(group, scores, strict=True)):
        plain = same_text(str(line["prediction"]))
        if plain not in seen and score is not None:
            seen.add(plain)
            found.append((score, number))
    return sorted(found)


def _scores(lines: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """Return the number of each line by which it is ranked; None where the metric has none for the line."""
    if not lines:
        return []
    said, wanted = answers_alone(
        [str(line["prediction"]) for line in lines], [str(line["reference"]) for line in lines]
    )
    assert wanted is not None
    rows = Rows(
        ids=tuple(str(line["id"]) for line in lines),
        predictions=said,
        references=tuple(Reference(text, _entities(line)) for text, line in zip(wanted, lines, strict=True)),
    )
    try:
        measured = metric(name).measure(rows, Settings())
    except MetricError as error:
        raise InputError(error.what, key="--metric", value=name, fix=error.fix) from None
    return [values[RANKING[name]] for values in measured.row_values()]


def _entities(line: Mapping[str, Any]) -> tuple[Entity, ...] | None:
    known = line.get("entities")
    if known is None:
        return None
    return tuple(
        Entity(str(each["text"]), str(each.get("assertion") or "present"), str(each.get("type") or ""))
        for each in known
    )
