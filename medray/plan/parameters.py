"""The number of parameters of a model, from its config or from the headers of its weight files.

No model is built and no weight is read: counting a 70B model takes a millisecond. Counts from a config follow the module
definitions of transformers 5 for the families below; `tests/unit/plan` compares them with models on torch's meta device.

| family | biases | norms | head |
|---|---|---|---|
| llama | `attention_bias` on q, k, v, o; `mlp_bias` | 2 per layer + 1 | as the config says, else untied |
| mistral | none | same | same |
| qwen2 | always on q, k, v, never on o | same | same |
| qwen3 | `attention_bias` on q, k, v, o | same, and 1 per layer for queries and 1 for keys | as llama |
| phi3 | none; q, k, v are one layer, gate and up another | same as llama | as llama |
| gemma | `attention_bias` | same as llama | tied unless the config says not |
| gemma2 | `attention_bias` | 4 per layer + 1 | same |
| gemma3_text | `attention_bias` | 4 per layer + 1, and 1 per layer for queries and 1 for keys | same |
| t5, mt5 | none | 2 per encoder layer, 3 per decoder layer, 1 per stack | tied unless the config says not |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medray.plan.headers import ParameterCount, from_safetensors

__all__ = [
    "Linear",
    "ParameterCount",
    "Shape",
    "adapted",
    "from_config",
    "from_safetensors",
    "linears",
    "lora",
    "shape",
]

GEMMAS = ("gemma", "gemma2", "gemma3_text")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "phi3", *GEMMAS)
ENCODER_DECODERS = ("t5", "mt5")
NORMS_AROUND = ("gemma2", "gemma3_text")  # these have a norm before and after each part of a layer
NORMS_OF_HEADS = ("qwen3", "gemma3_text")  # these normalize the queries and keys of a head
_HEAD_SIZES = dict.fromkeys(GEMMAS, 256) | {"qwen3": 128}  # where the config does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A group of `copies` linear layers with the same name and size in a model."""

    name: str
    inputs: int
    outputs: int
    copies: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Return the parameters of one copy."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of a model. layers: encoder and decoder together."""

    layers: int
    hidden_size: int
    heads: int
    vocab_size: int


def from_config(config: Mapping[str, Any], *, tied: bool | None = None) -> ParameterCount:
    """Count the parameters of the language model with the Hugging Face config `config` (the dict of `config.json`).

    tied: whether head and embedding are one tensor; None follows the config. Use True for a T5 that transformers 5
    initializes at random: it ties the head whatever the config says, and unties it only if a checkpoint has a separate
    head, as those of T5 1.1, Flan-T5 and mT5 have. A config written by transformers 5 says `tie_word_embeddings: true` for
    them; for T5, `scale_decoder_outputs: false` still shows it, but for mT5 only `from_safetensors` does.

    Raises ValueError for another family, or if a size is missing.
    """
    layers = linears(config)
    seq2seq = _family(config) in ENCODER_DECODERS
    hidden = size(config, "d_model" if seq2seq else "hidden_size")
    embedding = size(config, "vocab_size") * hidden
    head = 0 if (_tied(config) if tied is None else tied) else embedding
    rest = _t5_rest(config, hidden) if seq2seq else _decoder_norms(config, hidden)
    return ParameterCount(
        total=embedding + head + rest + sum(layer.parameters * layer.copies for layer in layers),
        embedding=embedding,
        head=head,
        largest_layer=max(embedding, *(layer.parameters for layer in layers)),
    )


def lora(config: Mapping[str, Any], rank: int, targets: str | Iterable[str] = "all-linear") -> int:
    """Return the trainable parameters of a LoRA adapter: rank * (inputs + outputs) over all adapted layers (Hu et al.
    2021, 4.1).

    targets: `all-linear`, which as in peft excludes the output head, or names of linear layers (`q_proj`, `wi_0`), which
    may include `lm_head`. DoRA, rank patterns and trained biases are not counted.

    Raises ValueError for a rank below 1 or a name that the model does not have.
    """
    if rank < 1:
        raise ValueError(f"a LoRA rank of {rank}: must be at least 1")
    layers = adapted(config, targets)
    return rank * sum((layer.inputs + layer.outputs) * layer.copies for layer in layers)


def adapted(config: Mapping[str, Any], targets: str | Iterable[str] = "all-linear") -> tuple[Linear, ...]:
    """Return the linear layers in `targets`, see `lora`. Raises ValueError for a name that the model does not have."""
    layers = linears(config)
    if targets != "all-linear":
        names = {targets} if isinstance(targets, str) else set(targets)
        hidden = size(config, "d_model" if _family(config) in ENCODER_DECODERS else "hidden_size")
        layers += (Linear(name="lm_head", inputs=hidden, outputs=size(config, "vocab_size"), copies=1),)
        known = {layer.name for layer in layers}
        if not names or names - known:
            raise ValueError(
                f"no linear layer is named {', '.join(sorted(names - known)) or '(nothing)'}; "
                f"a {_family(config)} model has {', '.join(sorted(known))}"
            )
        layers = tuple(layer for layer in layers if layer.name in names)
    return layers


def shape(config: Mapping[str, Any]) -> Shape:
    """Return the sizes of `config`."""
    if _family(config) in ENCODER_DECODERS:
        encoder, decoder = stack_layers(config)
        return Shape(
            layers=encoder + decoder,
            hidden_size=size(config, "d_model"),
            heads=size(config, "num_heads"),
            vocab_size=size(config, "vocab_size"),
        )
    return Shape(
        layers=size(config, "num_hidden_layers"),
        hidden_size=size(config, "hidden_size"),
        heads=size(config, "num_attention_heads"),
        vocab_size=size(config, "vocab_size"),
    )


def linears(config: Mapping[str, Any]) -> tuple[Linear, ...]:
    """Return every linear layer except the output head. Raises ValueError like `from_config`."""
    return _t5_linears(config) if _family(config) in ENCODER_DECODERS else _decoder_linears(config)


def _decoder_linears(config: Mapping[str, Any]) -> tuple[Linear, ...]:
    family, layers = _family(config), size(config, "num_hidden_layers")
    hidden, inner = size(config, "hidden_size"), size(config, "intermediate_size")
    heads, head_dim, kv_heads = attention_heads(config)
    if family == "phi3":
        return (
            Linear(name="qkv_proj", inputs=hidden, outputs=(heads + 2 * kv_heads) * head_dim, copies=layers),
            Linear(name="o_proj", inputs=heads * head_dim, outputs=hidden, copies=layers),
            Linear(name="gate_up_proj", inputs=hidden, outputs=2 * inner, copies=layers),
            Linear(name="down_proj", inputs=inner, outputs=hidden, copies=layers),
        )
    attention_bias = family == "qwen2" or (family != "mistral" and bool(config.get("attention_bias")))
    output_bias = attention_bias and family != "qwen2"
    mlp_bias = family == "llama" and bool(config.get("mlp_bias"))
    return (
        Linear(name="q_proj", inputs=hidden, outputs=heads * head_dim, copies=layers, bias=attention_bias),
        Linear(name="k_proj", inputs=hidden, outputs=kv_heads * head_dim, copies=layers, bias=attention_bias),
        Linear(name="v_proj", inputs=hidden, outputs=kv_heads * head_dim, copies=layers, bias=attention_bias),
        Linear(name="o_proj", inputs=heads * head_dim, outputs=hidden, copies=layers, bias=output_bias),
        Linear(name="gate_proj", inputs=hidden, outputs=inner, copies=layers, bias=mlp_bias),
        Linear(name="up_proj", inputs=hidden, outputs=inner, copies=layers, bias=mlp_bias),
        Linear(name="down_proj", inputs=inner, outputs=hidden, copies=layers, bias=mlp_bias),
    )


def _decoder_norms(config: Mapping[str, Any], hidden: int) -> int:
    """Return the parameters of all norms of a decoder."""
    family, head_dim = _family(config), attention_heads(config)[1]
    a_layer = (4 if family in NORMS_AROUND else 2) * hidden
    of_heads = 2 * head_dim if family in NORMS_OF_HEADS else 0
    return size(config, "num_hidden_layers") * (a_layer + of_heads) + hidden


def attention_heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the number of query heads of a decoder, the size of a head, and the number of key and value heads."""
    family, heads = str(config.get("model_type")), size(config, "num_attention_heads")
    head_dim = int(
        config.get("head_dim") or _HEAD_SIZES.get(family, 0) or size(config, "hidden_size") // heads
    )
    # Absent and null differ: transformers fills an absent mistral key with 8, and a null with the number of
    # heads.
    absent = {"mistral": 8, "gemma": 16, "gemma2": 4, "gemma3_text": 4, "qwen2": 32, "qwen3": 32}.get(
        family, heads
    )
    return heads, head_dim, int(config.get("num_key_value_heads", absent) or heads)


def _t5_linears(config: Mapping[str, Any]) -> tuple[Linear, ...]:
    encoder, decoder = stack_layers(config)
    hidden, inner = size(config, "d_model"), size(config, "d_ff")
    attention = size(config, "num_heads") * size(config, "d_kv")
    attentions = encoder + 2 * decoder  # a decoder layer attends to itself and to the encoder
    gated = feed_forward(config).startswith("gated-")
    return (
        *(Linear(name=name, inputs=hidden, outputs=attention, copies=attentions) for name in ("q", "k", "v")),
        Linear(name="o", inputs=attention, outputs=hidden, copies=attentions),
        *(
            Linear(name=name, inputs=hidden, outputs=inner, copies=encoder + decoder)
            for name in (("wi_0", "wi_1") if gated else ("wi",))
        ),
        Linear(name="wo", inputs=inner, outputs=hidden, copies=encoder + decoder),
    )


def _t5_rest(config: Mapping[str, Any], hidden: int) -> int:
    """Return the parameters of layer norms and of the relative position biases in the first layer of each stack."""
    encoder, decoder = stack_layers(config)
    norms = (2 * encoder + 1 + 3 * decoder + 1) * hidden
    return norms + 2 * int(config.get("relative_attention_num_buckets") or 32) * size(config, "num_heads")


def stack_layers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the layers of encoder and decoder of a T5."""
    encoder = size(config, "num_layers")
    decoder = config.get("num_decoder_layers")
    return encoder, encoder if decoder is None else int(decoder)


def feed_forward(config: Mapping[str, Any]) -> str:
    """Return the kind of a T5's feed-forward layers: relu, gated-gelu."""
    return str(config.get("feed_forward_proj") or ("gated-gelu" if _family(config) == "mt5" else "relu"))


def _tied(config: Mapping[str, Any]) -> bool:
    if config.get("scale_decoder_outputs") is False:
        return False
    said = config.get("tie_word_embeddings")
    return _family(config) in (*ENCODER_DECODERS, *GEMMAS) if said is None else bool(said)


def _family(config: Mapping[str, Any]) -> str:
    family = str(config.get("model_type"))
    if family not in DECODERS + ENCODER_DECODERS:
        raise ValueError(
            f"model_type {family!r} cannot be counted from its config, only {', '.join(DECODERS + ENCODER_DECODERS)}"
        )
    return family


def size(config: Mapping[str, Any], name: str) -> int:
    """Return a size of a model's config. Raises ValueError if it is missing or not a whole number above 0."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"the model's config needs {name} as a whole number above 0, but has {value!r}")
    return value
