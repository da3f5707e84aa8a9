"""Small architectures for random weights, as Hugging Face config dicts without vocabulary (the tokenizer's decides)."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # 7 M parameters with a vocabulary of 4,096: enough to classify, not to write.
    "t5-tiny": {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.05,
        "tie_word_embeddings": True,
    },
    "llama-tiny": {
        "model_type": "llama",
        "is_encoder_decoder": False,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}


def special_tokens(config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What a preset takes from the tokenizer: size of the vocabulary and special ids."""
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if config["model_type"] == "t5":
        return ids | {"decoder_start_token_id": tokenizer.pad_token_id}
    return ids | {"bos_token_id": tokenizer.bos_token_id}
