"""A random BERT of 16 values with a tokenizer of words, as a folder that save_pretrained wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "the", "patient", "took", "aspirin", "and", "slept", "for", "days"]


def save_encoder(folder: Path, *, outputs: int | None = None) -> Path:
    """Write an encoder, or with `outputs` a classifier, and return its folder. Texts have at most 8 tokens."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        initializer_range=1.0,
    )
    config.num_labels = outputs or 1
    model = BertModel(config) if outputs is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    return folder
