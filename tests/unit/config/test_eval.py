"""The direction in which a metric gets better."""

from __future__ import annotations

import itertools

import pytest

from medray.config.eval import NUMBERS, lower_is_better


@pytest.mark.parametrize(
    "metric",
    ["loss", "loss_label", "loss_cosine", "loss/rationale/Age", "val_loss", "perplexity", "WER", "wer/en"],
)
def test_less_is_better(metric: str) -> None:
    assert lower_is_better(metric)


@pytest.mark.parametrize(
    "metric", ["answer_f1", "cancer_recall", "power", "lossless", *itertools.chain(*NUMBERS.values())]
)
def test_more_is_better(metric: str) -> None:
    assert not lower_is_better(metric)
