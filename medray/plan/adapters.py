"""The number of parameters that an adapter trains, and the size of a frozen base in 4 bits, from a model's config.

`tests/unit/plan` compares the numbers with adapters that peft builds on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medray.plan import parameters
from medray.plan.parameters import ENCODER_DECODERS, Linear

if TYPE_CHECKING:
    from medray.config.peft import PeftConfig

TASKS = 2  # tasks of a multitask prompt
# Family → the layers of which IA3 scales the output, and those of which it scales the input, as in peft.
_IA3 = {
    "llama": (("k_proj", "v_proj"), ("down_proj",)),
    "mistral": (("k_proj", "v_proj"), ("down_proj",)),
    "qwen2": (("q_proj", "v_proj"), ("down_proj",)),
    "qwen3": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma2": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma3_text": (("q_proj", "v_proj"), ("down_proj",)),
    "t5": (("k", "v"), ("wo",)),
    "mt5": (("k", "v", "wi_1"), ()),
}


def trained(config: Mapping[str, Any], peft: PeftConfig) -> int:
    """Return the trained parameters of the adapter; for `none`, those of the model. config: the dict of `config.json`.

    Raises ValueError for a family that cannot be counted from its config, or for a layer that it does not have.
    """
    kind, width = peft.type, _width(config)
    if kind == "none":
        return parameters.from_config(config).total
    if kind == "lora":
        layers = parameters.adapted(config, peft.targets)
        norms = sum(layer.outputs * layer.copies for layer in layers) if peft.dora else 0
        return parameters.lora(config, peft.rank, peft.targets) + norms
    if kind == "adalora":
        layers = parameters.adapted(config, peft.targets)
        factors = sum((layer.inputs + layer.outputs + 1) * layer.copies for layer in layers)
        return peft.adalora.init_rank * factors
    if kind == "ia3":
        return _ia3(config)
    if kind == "prefix":
        return peft.virtual_tokens * 2 * _cache_width(config)
    prompt = peft.virtual_tokens * width
    if kind == "prompt":
        return prompt
    return prompt + TASKS * peft.task_rank * (peft.virtual_tokens + width)


def counters(config: Mapping[str, Any], peft: PeftConfig) -> int:
    """Return the number of frozen values in the adapter: AdaLoRA stores the rank of each layer as a value."""
    if peft.type != "adalora":
        return 0
    return sum(layer.copies for layer in parameters.adapted(config, peft.targets))


def nf4_bytes(config: Mapping[str, Any], weight_bytes: int, *, double: bool) -> int:
    """Return the bytes of frozen weights in NF4: 4 bits, and a scale per 64 weights (Dettmers et al. 2023, section 3).

    A scale is a float32; with `double` it has 8 bits, plus a float32 per 256 scales. The head and all other layers that
    are not linear keep `weight_bytes`.
    """
    packed = sum(layer.inputs * layer.outputs * layer.copies for layer in parameters.linears(config))
    whole = parameters.from_config(config).total - packed
    scale_bits = 8 + 32 / 256 if double else 32
    return round(packed * (4 + scale_bits / 64) / 8) + whole * weight_bytes


def _width(config: Mapping[str, Any]) -> int:
    return parameters.shape(config).hidden_size


def _cache_width(config: Mapping[str, Any]) -> int:
    """Return the size of one token's keys in all layers (of the decoder)."""
    if config.get("model_type") not in ENCODER_DECODERS:
        _, head_dim, heads = parameters.attention_heads(config)
        return heads * head_dim * parameters.shape(config).layers
    keys = next(layer for layer in parameters.linears(config) if layer.name == "k")
    decoder = config.get("num_decoder_layers")
    return keys.outputs * int(config["num_layers"] if decoder is None else decoder)


def _ia3(config: Mapping[str, Any]) -> int:
    family = str(config.get("model_type"))
    if family not in _IA3:
        raise ValueError(f"peft does not say which layers of a {family} IA3 scales")
    outputs, inputs = _IA3[family]
    layers: tuple[Linear, ...] = parameters.linears(config)
    return sum(
        (layer.outputs if layer.name in outputs else layer.inputs) * layer.copies
        for layer in layers
        if layer.name in outputs + inputs
    )
