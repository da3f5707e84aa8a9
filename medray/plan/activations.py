"""The bytes that a forward pass keeps for the backward pass, layer by layer, from a model's config.

An operation keeps what its gradient needs: a linear layer its input (if its weight is trained), a norm its input and the
normalized values, a product both factors, attention its query, key, value and output. The constants below follow the
modules of transformers 5 and the kernels of torch 2.13. `tests/unit/plan/test_truth.py` compares the sums with the
tensors that torch really keeps.

| part, per token | Llama, Mistral, Qwen, Phi-3 | Gemma | T5, mT5 |
|---|---|---|---|
| a norm, 32 bits | 12 hidden | 12 hidden | 12 hidden |
| a norm, 16 bits | 8 hidden (4 of them its input in float32) | 10 hidden | 10 hidden |
| feed-forward, in values | 4 inner (gate, activated gate, up, product) | 4 inner | 7 inner for gated-gelu, 1 for relu |

An adapter freezes the norms and most inputs, so less is kept. Attention scores are kept only where the kernel is torch's
own arithmetic: on CPUs with dropout or a trained bias, and everywhere in Gemma 2, whose scores have a soft cap. With a mask (padding, packing), key and value are repeated for each
query head, and each layer keeps its own mask of rows x length x length values; T5 keeps one per head, its position bias.

With gradient checkpointing, a layer keeps its input only, and one layer at a time is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medray.plan import parameters
from medray.plan.parameters import ENCODER_DECODERS, GEMMAS, NORMS_AROUND, NORMS_OF_HEADS

FLOAT = 4  # bytes of a value in float32
_GATED_GELU, _PLAIN_RELU = 7, 1  # values per inner feature that T5's two kinds of feed-forward keep
_GATED = 4  # the same for silu(gate) * up and its product


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """One forward pass of a worker: the longest of a run.

    rows: sequences at once. length: tokens of a sequence (of the source, for an encoder-decoder). targets: positions of a
    sequence that have logits. masked: rows differ in length or are packed, so that attention needs a mask.
    """

    rows: int
    length: int
    targets: int
    masked: bool = True

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def logits(self) -> int:
        """Return the number of positions with logits."""
        return self.rows * self.targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The trained part and the kernels: everything else that decides which tensors are kept.

    adapted: names of the linear layers that have an adapter; None: every weight is trained. rank: of the adapter.
    adapter_dropout: whether the adapter has dropout, which copies its input. on_gpu: kernels of a GPU, else of a CPU.
    """

    weight_bytes: int
    on_gpu: bool
    checkpointing: bool = False
    adapted: frozenset[str] | None = None
    rank: int = 0
    adapter_dropout: bool = False

    def keeps_input(self, *names: str) -> bool:
        """Return whether one of these linear layers keeps its input."""
        return self.adapted is None or not self.adapted.isdisjoint(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Bytes that are alive when the backward pass begins, and on top of that for a moment.

    activations: kept by all layers, without logits. logits: kept by the loss. loss_forward, loss_backward: more for a
    moment while the loss and its gradient are computed. differentiating: the most while the gradients of a layer are
    computed: what is kept by then, what checkpointing computes again, and the gradients themselves.
    """

    activations: int
    logits: int
    loss_forward: int
    loss_backward: int
    differentiating: int

    @property
    def forward(self) -> int:
        """Return the most bytes during the forward pass."""
        return self.activations + self.logits + self.loss_forward

    @property
    def backward(self) -> int:
        """Return the most bytes during the backward pass, without gradients of weights."""
        return max(self.activations + self.logits + self.loss_backward, self.differentiating)


def kept(config: Mapping[str, Any], forward: Forward, training: Training, *, chunk: int | None) -> Kept:
    """Return the bytes that one forward pass keeps. chunk: positions whose logits exist at once; None: all of them.

    Raises ValueError for a model whose config does not have the sizes.
    """
    stacks = _stacks(config, forward, training)
    width, words = training.weight_bytes, _positive(config, "vocab_size")
    activations = differentiating = 0
    for stack in stacks:  # the last stack is differentiated first, while all others are kept
        each = stack.entry if training.checkpointing else stack.layer
        activations += stack.layers * each + stack.ends
        again = stack.layer if training.checkpointing else 0
        differentiating = max(differentiating, activations + again + stack.working)
    positions = forward.logits if chunk is None else min(chunk, forward.logits)
    # Logits, a float32 copy in 16-bit runs, and log-probabilities; then log-probabilities and two gradients.
    least = words * positions
    in_loss = least * ((width if width < FLOAT else 0) + 2 * FLOAT)
    if _soft_cap(config, "final_logit_softcapping"):  # the cap keeps its tanh
        in_loss += least * width
    logits = FLOAT * least if chunk is None else 0
    capped = width * least if chunk is None and _soft_cap(config, "final_logit_softcapping") else 0
    head_inputs = width * _hidden(config) * forward.logits if training.keeps_input("lm_head") else 0
    return Kept(
        activations=activations + head_inputs,
        logits=logits + capped,
        loss_forward=in_loss - logits - capped,
        loss_backward=3 * FLOAT * least - logits,
        differentiating=differentiating,
    )


def without_gradients(config: Mapping[str, Any], forward: Forward, weight_bytes: int) -> int:
    """Return the most bytes during a forward pass of an evaluation: one layer at a time, and the logits."""
    hidden, heads, tokens = _hidden(config), _heads(config), forward.tokens
    seq2seq = config.get("model_type") in ENCODER_DECODERS
    inner = _positive(config, "d_ff" if seq2seq else "intermediate_size")
    # A mask; for T5 one per head, of which the last layer's is still alive while the next is made.
    scores = forward.rows * forward.length**2 * (2 * heads.count if seq2seq else int(forward.masked))
    if _soft_cap(config, "attn_logit_softcapping"):  # scores and their softmax, both in float32 for a moment
        scores += 2 * forward.rows * forward.length**2 * heads.count * FLOAT // weight_bytes
    attention = tokens * 6 * heads.width + scores
    layer = tokens * 5 * hidden + max(attention, tokens * 3 * inner)
    copies = (weight_bytes if weight_bytes < FLOAT else 0) + 2 * FLOAT
    return max(weight_bytes * layer, forward.logits * _positive(config, "vocab_size") * copies)


def cache_bytes(
    config: Mapping[str, Any], *, rows: int, length: int, new_tokens: int, weight_bytes: int
) -> int:
    """Return the bytes of keys and values that generation keeps for `rows` sequences (rows x beams)."""
    heads, layers = _heads(config), _layers(config)
    if config.get("model_type") in ENCODER_DECODERS:
        per_token = 2 * layers[1] * heads.width
        return rows * (new_tokens + length) * per_token * weight_bytes
    return rows * (length + new_tokens) * 2 * layers[0] * heads.cached * weight_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stack:
    """Layers of one kind. layer: bytes that one keeps. entry: bytes of its input. ends: bytes before the first and after
    the last layer. working: bytes of gradients while one layer is differentiated."""

    layers: int
    layer: int
    entry: int
    ends: int
    working: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heads:
    count: int
    size: int
    cached_count: int

    @property
    def width(self) -> int:
        return self.count * self.size

    @property
    def cached(self) -> int:
        return self.cached_count * self.size


def _stacks(config: Mapping[str, Any], forward: Forward, training: Training) -> tuple[_Stack, ...]:
    if config.get("model_type") in ENCODER_DECODERS:
        return _encoder_decoder(config, forward, training)
    return (_decoder(config, forward, training),)


def _decoder(config: Mapping[str, Any], forward: Forward, training: Training) -> _Stack:
    width, tokens, hidden = training.weight_bytes, forward.tokens, _hidden(config)
    inner, heads = _positive(config, "intermediate_size"), _heads(config)
    family = config.get("model_type")
    fused = family == "phi3"  # one linear layer for query, key and value, and one for gate and up
    into_attention = ("qkv_proj",) if fused else ("q_proj", "k_proj", "v_proj")
    into_inner = ("gate_up_proj",) if fused else ("gate_proj", "up_proj")
    norms = _norm(config, training, *into_attention) + _norm(config, training, *into_inner)
    if family in NORMS_AROUND:
        norms += 2 * _norm(config, training)
    of_heads = _norm(config, training) * (heads.width + heads.cached) if family in NORMS_OF_HEADS else 0
    capped = _soft_cap(config, "attn_logit_softcapping")
    keeps_product = training.keeps_input("down_proj")
    feed_forward = width * tokens * inner * (_GATED if keeps_product else _GATED - 1)
    scores = heads.count * forward.rows * forward.length**2 if capped else 0
    return _Stack(
        layers=_layers(config)[0],
        layer=(norms * hidden + of_heads) * tokens
        + _decoder_attention(forward, width, heads, capped=capped, fused=fused)
        + feed_forward
        + _adapters(training, _decoder_inputs(config, hidden, inner, heads), tokens),
        entry=width * hidden * tokens,
        ends=_norm(config, training) * hidden * tokens,
        working=width * tokens * 2 * (inner + hidden) + 2 * FLOAT * scores,
    )


def _decoder_attention(forward: Forward, width: int, heads: _Heads, *, capped: bool, fused: bool) -> int:
    """Return the bytes that one attention of a decoder keeps.

    capped: scores have a soft cap, which no kernel knows, so that torch's own arithmetic keeps them: their tanh, the
    float32 softmax, and in 16 bits its copy. fused: value is a part of one tensor with query and key.
    """
    tokens, squares = forward.tokens, forward.rows * forward.length**2
    # Without a mask, the kernel reads each key once for a group of query heads.
    repeated = forward.masked or capped
    kept = width * tokens * (2 * heads.width + 2 * (heads.width if repeated else heads.cached))
    if fused and (not repeated or heads.cached == heads.width):  # no copy of value: all of the tensor is kept
        kept += width * tokens * (heads.width + heads.cached)
    if capped:
        copies = width + FLOAT + (width if width < FLOAT else 0)
        return kept + copies * heads.count * squares
    return kept + FLOAT * tokens * heads.count + (width * squares if forward.masked else 0)


def _soft_cap(config: Mapping[str, Any], name: str) -> bool:
    """Return whether attention scores or logits have a soft cap; Gemma 2 has both if its config does not say otherwise."""
    return bool(config.get(name, config.get("model_type") == "gemma2"))


def _decoder_inputs(config: Mapping[str, Any], hidden: int, inner: int, heads: _Heads) -> dict[str, int]:
    names = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "qkv_proj", "gate_up_proj")
    return dict.fromkeys(names, hidden) | {"o_proj": heads.width, "down_proj": inner}


def _encoder_decoder(
    config: Mapping[str, Any], forward: Forward, training: Training
) -> tuple[_Stack, _Stack]:
    width, hidden, heads = training.weight_bytes, _hidden(config), _heads(config)
    inner, dropout = _positive(config, "d_ff"), float(config.get("dropout_rate", 0.1)) > 0
    sources, targets = forward.tokens, forward.logits
    gated = parameters.feed_forward(config).startswith("gated-")
    first = ("wi_0", "wi_1") if gated else ("wi",)
    # What dropout keeps per value: a mask of bytes on a GPU, a factor on a CPU.
    mask = (1 if training.on_gpu else width) if dropout else 0
    linears = dict.fromkeys(("q", "k", "v", *first), hidden) | {"o": heads.width, "wo": inner}
    self_norm, cross_norm = _norm(config, training, "q", "k", "v"), _norm(config, training, "q")
    inner_norm = _norm(config, training, *first)

    def feed_forward(tokens: int) -> int:
        values = _GATED_GELU if gated else _PLAIN_RELU
        if gated and not training.keeps_input("wo"):
            values -= 1
        return tokens * ((width * values + mask) * inner + (inner_norm + mask) * hidden)

    def attention(queries: int, keys: int, scores: int, *, trained_bias: bool) -> int:
        """Return the bytes that one attention keeps. scores: rows x queries x keys, per head. trained_bias: the bias has a gradient."""
        values = width * heads.width * (queries + 2 * keys)
        output = width * heads.width * queries
        if training.on_gpu or not (trained_bias or dropout):  # the kernel keeps the bias, added to the mask
            return values + output + FLOAT * queries * heads.count + width * heads.count * scores
        in_float = FLOAT if trained_bias or dropout else width  # torch's own arithmetic
        kept_scores = heads.count * scores * (FLOAT + (2 * width if dropout else 0))
        return values * in_float // width + output + kept_scores

    learns = training.adapted is None
    score_bytes = heads.count * forward.rows * (width if training.on_gpu else 2 * FLOAT)

    def working(tokens: int, scores: int) -> int:
        """Gradients of a layer's features, and of its attention scores if the position bias is trained."""
        return width * tokens * 2 * (inner + hidden) + (score_bytes * scores if learns else 0)

    encoder = (
        attention(sources, sources, forward.rows * forward.length**2, trained_bias=learns)
        + (self_norm + mask) * hidden * sources
        + feed_forward(sources)
        + _adapters(training, linears, sources)
    )
    decoder = (
        attention(targets, targets, forward.rows * forward.targets**2, trained_bias=learns)
        + (self_norm + mask) * hidden * targets
        + attention(
            targets,
            sources,
            forward.rows * forward.targets * forward.length,
            trained_bias=training.checkpointing,  # transformers gives these zeros a gradient then
        )
        + (cross_norm + mask) * hidden * targets
        + feed_forward(targets)
        + _adapters(training, linears, targets)
    )
    ends = _norm(config, training, "k", "v") + 2 * mask
    biases = width * heads.count * (forward.length**2 + forward.targets * (forward.targets + forward.length))
    layers = _layers(config)
    return (
        _Stack(
            layers=layers[0],
            layer=encoder,
            entry=width * hidden * sources,
            ends=ends * hidden * sources + (biases if training.checkpointing else 0),
            working=working(sources, forward.length**2),
        ),
        _Stack(
            layers=layers[1],
            layer=decoder,
            entry=width * hidden * targets,
            ends=(_norm(config, training) + 2 * mask) * hidden * targets,
            working=working(targets, forward.targets * max(forward.targets, forward.length)),
        ),
    )


def _norm(config: Mapping[str, Any], training: Training, *readers: str) -> int:
    """Return the bytes per feature that a norm keeps, with its input and, for the linear layers `readers`, its output."""
    width, family = training.weight_bytes, config.get("model_type")
    output = width if readers and training.keeps_input(*readers) else 0
    learns = training.adapted is None
    if width == FLOAT:
        return FLOAT + (FLOAT if learns else 0) + output
    if family in ENCODER_DECODERS:  # its input is kept in both types
        return FLOAT + width + (width if learns else 0) + output
    normalized = FLOAT if family in GEMMAS else width
    return FLOAT + (normalized if learns else 0) + output


def _adapters(training: Training, inputs: Mapping[str, int], tokens: int) -> int:
    """Return the bytes that adapters of one layer keep in addition to their inputs: the low-rank values and copies by dropout."""
    adapted = [inputs[name] for name in training.adapted or () if name in inputs]
    copies = (training.weight_bytes + 1) * sum(adapted) if training.adapter_dropout else 0
    return tokens * (training.weight_bytes * training.rank * len(adapted) + copies)


def _heads(config: Mapping[str, Any]) -> _Heads:
    if config.get("model_type") in ENCODER_DECODERS:
        count, size = _positive(config, "num_heads"), _positive(config, "d_kv")
        return _Heads(count=count, size=size, cached_count=count)
    count, size, cached = parameters.attention_heads(config)
    return _Heads(count=count, size=size, cached_count=cached)


def _layers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the layers of encoder and decoder, or of a decoder and 0."""
    if config.get("model_type") in ENCODER_DECODERS:
        return parameters.stack_layers(config)
    return _positive(config, "num_hidden_layers"), 0


def _hidden(config: Mapping[str, Any]) -> int:
    return _positive(config, "d_model" if config.get("model_type") in ENCODER_DECODERS else "hidden_size")


def _positive(config: Mapping[str, Any], name: str) -> int:
    return parameters.size(config, name)
