"""The direction in which a metric gets better."""

from __future__ import annotations

import itertools

import pytest

from medray.config.eval import NUMBERS, lower_is_better

ALL = list(itertools.chain(*NUMBERS.values()))
UNPARSED = [name for name in ALL if name.endswith("_unparsed")]


@pytest.mark.parametrize(
    "metric",
    [
        *(
            "loss",
            "loss_label",
            "loss_cosine",
            "loss/rationale/Age",
            "val_loss",
            "perplexity",
            "WER",
            "wer/en",
        ),
        *UNPARSED,
    ],
)
def test_less_is_better(metric: str) -> None:
    assert lower_is_better(metric)


@pytest.mark.parametrize(
    "metric",
    ["answer_f1", "cancer_recall", "power", "lossless", *(name for name in ALL if name not in UNPARSED)],
)
def test_more_is_better(metric: str) -> None:
    assert not lower_is_better(metric)
