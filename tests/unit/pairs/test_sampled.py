"""Answers that a model samples to pairs: which one is rejected, and what is stored with it."""

from __future__ import annotations

from typing import Any

import pytest

from medray.config import Config
from medray.data.encode.encoder import EncodeSpec
from medray.data.records import Distill, Origin, Record
from medray.data.shards.preparation import encode_spec
from medray.errors import InputError
from medray.pairs.sampled import SampledCounts, SampledOptions, sampled_pairs

GOLD = "No fever. Takes aspirin 100 mg."
BAD, FAIR, GOOD = "The weather.", "Takes aspirin.", "Fever. Takes aspirin 100 mg."


def spec() -> EncodeSpec:
    return encode_spec(Config.model_validate({"data": {"prompts": {"label": "Write the note"}}}), "causal")


def record(number: int, label: str = GOLD) -> Record:
    return Distill(Origin(f"r{number}", "", "patient", "en"), "Doctor: any fever?", label)


def lines(number: int, *answers: str, gold: str | None = GOLD) -> list[dict[str, Any]]:
    known = {} if gold is None else {"reference": gold}
    return [
        {"id": f"r{number}#{n}", "prediction": text, "finish": "stop"} | known
        for n, text in enumerate(answers)
    ]


def made(
    answers: list[tuple[str, ...]],
    counts: SampledCounts | None = None,
    gold: str | None = GOLD,
    **options: Any,
) -> list[dict[str, Any]]:
    part = (
        "visits.csv",
        [record(n) for n in range(len(answers))],
        [line for n, texts in enumerate(answers) for line in lines(n, *texts, gold=gold)],
    )
    asked = SampledOptions(samples=len(answers[0]), origin={"model": "runs/notes", "seed": 3}, **options)
    return list(sampled_pairs([part], spec(), asked, counts or SampledCounts()))


def test_the_worst_sample_is_rejected_with_where_it_comes_from() -> None:
    [row] = made([(GOOD, BAD, FAIR, GOLD)])
    assert (row["chosen"], row["rejected"]) == (GOLD, BAD)
    assert row["prompt"] == "Write the note:\nDoctor: any fever?"
    told = ("id", "strategy", "source", "metric", "score", "rank", "sample", "model", "seed", "group")
    assert [row[name] for name in told] == [
        "r0#sampled-1", "sampled", "visits.csv", "rouge_avg", 0.0, 1, 1, "runs/notes", 3, "patient",
    ]  # fmt: skip


def test_a_rank_chooses_a_better_sample_and_the_best_one_where_there_are_fewer() -> None:
    assert [row["rejected"] for row in made([(GOOD, BAD, FAIR), (BAD, GOLD, BAD)], rank=2)] == [FAIR, BAD]
    rows = made([(GOOD, BAD, FAIR)], rank=2, per_record=2)
    assert [(row["rejected"], row["rank"]) for row in rows] == [(FAIR, 2), (GOOD, 3)]
    assert len({row["id"] for row in rows}) == 2


def test_samples_that_equal_the_gold_answer_or_are_empty_give_no_pair() -> None:
    counts = SampledCounts()
    rows = made([(GOLD, f" {GOLD.upper()}\n", ""), (GOLD, BAD, BAD)], counts)
    assert [row["id"] for row in rows] == ["r1#sampled-1"]
    assert (counts.records, counts.without_pair, counts.pairs) == (2, 1, 1)


def test_rows_without_an_answer_are_counted() -> None:
    counts = SampledCounts()
    assert made([(BAD, GOOD)], counts, gold=None) == []
    assert (counts.without_gold, counts.without_pair) == (1, 0)


def test_a_metric_that_cannot_compare_the_answers_is_refused_without_their_text() -> None:
    with pytest.raises(InputError) as caught:
        made([(BAD, GOOD)], metric="ner_f1")
    assert caught.value.key == "--metric"
    assert "100 mg" not in str(caught.value)
