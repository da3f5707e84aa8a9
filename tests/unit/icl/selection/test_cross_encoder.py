"""A cross-encoder scores pairs as transformers does, and reads long examples in windows if it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_encoder import WORDS, save_encoder
from transformers import AutoModelForSequenceClassification

from medray.errors import InputError
from medray.icl.selection.cross_encoder import LoadedCrossEncoder

PASSAGES = ["the patient", "aspirin and days", "took"]


def expected(folder: Path, words: str) -> float:
    """Return the sigmoid of the output for these words, which are a query and a passage without special tokens."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logit = model(input_ids=torch.tensor([[WORDS.index(word) for word in words.split()]])).logits[0, 0]
    return float(torch.sigmoid(logit))


def test_scores_are_the_sigmoids_of_the_pairs(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, outputs=1)
    found = LoadedCrossEncoder(str(folder), windows=False).scores("slept for", PASSAGES)
    for passage, score in zip(PASSAGES, found, strict=True):
        assert score == pytest.approx(expected(folder, f"slept for {passage}"), abs=1e-5)


def test_a_long_passage_is_cut_or_read_in_windows(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, outputs=1)
    long = "the patient took aspirin and slept for days"
    [cut] = LoadedCrossEncoder(str(folder), windows=False).scores("days for", [long])
    assert cut == pytest.approx(expected(folder, "days for the patient took aspirin and slept"), abs=1e-5)
    [best] = LoadedCrossEncoder(str(folder), windows=True).scores("days for", [long])
    rest = expected(folder, "days for slept for days")  # the second window repeats one token
    assert best == pytest.approx(max(cut, rest), abs=1e-5)


def test_a_model_with_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 outputs"):
        LoadedCrossEncoder(str(save_encoder(tmp_path, outputs=2)), windows=False)
