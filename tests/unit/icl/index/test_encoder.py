"""The vectors of an encoder are those of transformers: pooled over the tokens of each text, and of length 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from medray.icl.index.encoder import EncoderSpec, TextEncoder

WORDS = ["[PAD]", "[UNK]", *["the", "patient", "took", "aspirin", "and", "slept", "for", "days"]]
TEXTS = ["the patient", "aspirin", "the patient took aspirin and slept for days", "slept for days and days"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 16 values with a tokenizer of words."""
    made = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    BertModel(config).save_pretrained(made)
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        made
    )
    return made


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
        np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-6)


def test_a_prefix_is_read_and_a_long_text_loses_its_end(folder: Path) -> None:
    def embed(text: str, prefix: str = "", longest: int = 8) -> np.ndarray:
        spec = EncoderSpec(model=str(folder), pooling="mean", prefix=prefix, max_tokens=longest, batch_size=2)
        return TextEncoder(spec).embed([text])

    np.testing.assert_allclose(embed("aspirin", prefix="the "), embed("the aspirin"), atol=1e-6)
    np.testing.assert_allclose(embed("the patient took", longest=2), embed("the patient"), atol=1e-6)
