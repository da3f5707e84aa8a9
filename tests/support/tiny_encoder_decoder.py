"""A tiny encoder-decoder with random weights, for tests that need no tokenizer and no files."""

from __future__ import annotations

from typing import Any

import torch

from medray.plan.model_config import PRESETS

VOCABULARY = 96


def encoder_decoder(*, dropout: float = 0.0) -> Any:
    """A T5 in training mode; the same weights at every call."""
    from transformers import T5Config, T5ForConditionalGeneration

    values = {key: value for key, value in PRESETS["t5-tiny"].items() if key != "model_type"}
    values |= {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_heads": 4,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "dropout_rate": dropout,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    torch.manual_seed(1)
    made: Any = T5ForConditionalGeneration(T5Config(**values))
    return made.train()
