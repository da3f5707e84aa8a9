"""Tiny decoders of several kinds, made from transformers' own config classes with random weights."""

from __future__ import annotations

from typing import Any

import torch

from medray.plan.model_config import PRESETS

VOCABULARY = 96

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama-tiny": PRESETS["llama-tiny"],
    # absolute positions, learned
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160},
    "qwen2": {"model_type": "qwen2", **_SHAPE},
    # each position sees the last six
    "mistral-window": {"model_type": "mistral", **_SHAPE, "sliding_window": 6},
    # recurrent: sees no mask
    "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2},
    # recurrent, and takes no positions at all
    "rwkv": {"model_type": "rwkv", "hidden_size": 32, "num_hidden_layers": 2},
    # attention that respects boundaries, together with a convolution that does not
    "lfm2": {"model_type": "lfm2", **_SHAPE, "layer_types": ["conv", "full_attention"]},
    # does not read where positions restart
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 160,
    },
}


def decoder(
    name: str, attention: str = "eager", *, dropout: float = 0.0, dtype: torch.dtype = torch.float32
) -> Any:
    """A model in training mode; the same weights at every call. dropout: for the two that name it so."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in DECODERS[name].items() if key != "model_type"}
    if name == "gpt2":
        values |= {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    elif dropout:
        values["attention_dropout"] = dropout
    config = AutoConfig.for_model(DECODERS[name]["model_type"], vocab_size=VOCABULARY, **values)
    torch.manual_seed(1)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation=attention, dtype=dtype).train()
    # Initial weights are so small that attention hardly matters: a leak would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def with_lora(model: Any) -> Any:
    """A LoRA adapter that already does something."""
    from medray.config.peft import PeftConfig
    from medray.models.adapters import add_adapter

    adapted = add_adapter(model, PeftConfig(type="lora", rank=2, targets="all-linear"), seq2seq=False, seed=4)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted.train()
