"""The vectors of an encoder are those of transformers: pooled over the tokens of each text, and of length 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import WORDS, save_encoder
from transformers import AutoModel

from medray.errors import InputError
from medray.icl.index.encoder import EncoderSpec, TextEncoder

TEXTS = ["the patient", "aspirin", "the patient took aspirin and slept for days", "slept for days and days"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_each_text_alone(folder: Path, pooling: str) -> None:
    spec = EncoderSpec(model=str(folder), pooling=pooling, prefix="", max_tokens=256, batch_size=3)
    found = TextEncoder(spec).embed(TEXTS)
    model = AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()][:8]])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0]
        expected = states.mean(dim=0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-5)


def test_a_prefix_is_read_and_a_long_text_loses_its_end(folder: Path) -> None:
    def embed(text: str, prefix: str = "", longest: int = 8) -> np.ndarray:
        spec = EncoderSpec(model=str(folder), pooling="mean", prefix=prefix, max_tokens=longest, batch_size=2)
        return TextEncoder(spec).embed([text])

    np.testing.assert_allclose(embed("aspirin", prefix="the "), embed("the aspirin"), atol=1e-5)
    np.testing.assert_allclose(embed("the patient took", longest=2), embed("the patient"), atol=1e-5)


def test_a_folder_without_a_model_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        TextEncoder(EncoderSpec(model=str(tmp_path), pooling="mean", prefix="", max_tokens=8, batch_size=1))
    assert error.value.key == "icl.embedding_model"
