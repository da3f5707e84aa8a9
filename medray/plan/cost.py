"""The time and money of a run: operations per token, steps, tokens, hours; bytes that are sent and stored.

A matrix product of a token with n weights takes 2 n operations, its two gradients take 4 n (Kaplan et al. 2020, section
2.1). An adapter needs the gradient of the inputs only, and checkpointing computes each layer's forward pass twice.
Attention takes 4 x length x width operations per token and layer, half of that where tokens see only earlier ones.

Hours are these operations, divided by the rate of the GPUs times an efficiency. The efficiency is not computed: it covers
kernels, communication and waiting, and is 0.3 to 0.5 for full tuning of large models on fast links. A run measures its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medray.plan import parameters
from medray.plan.gpus import Gpus
from medray.plan.parameters import ENCODER_DECODERS
from medray.plan.phases import Job

EFFICIENCY = 0.4  # share of the matrix rate, unless the user says another
_CHECKPOINT_VALUES = 3  # float32 values of a trained parameter in a checkpoint: weight and two moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The tokens of a run. source: mean tokens of a sequence (of the source, for an encoder-decoder). target: mean tokens
    with logits. rows: sequences of the whole run, counting each task and epoch. steps: optimizer steps."""

    source: float
    target: float
    rows: float
    steps: int

    @property
    def tokens(self) -> int:
        """Return the tokens that are computed, without padding; target includes those of the source for a causal model."""
        return round(self.rows * self.source)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of a run. hours and gpu_hours are None without GPUs, price without a price per GPU-hour.

    operations: of the whole run. sent: bytes that a GPU receives in one optimizer step. checkpoints, export: bytes on disk.
    """

    steps: int
    tokens: int
    operations: float
    hours: float | None
    gpu_hours: float | None
    price: float | None
    sent: int
    checkpoints: int
    export: int


def cost(
    job: Job,
    work: Work,
    gpus: Gpus | None,
    *,
    efficiency: float = EFFICIENCY,
    price: float | None = None,
    checkpoints: int = 2,
    passes: int = 1,
) -> Cost:
    """Return the cost of a run.

    price: of one GPU-hour. checkpoints: number of kept ones. passes: forward passes of a worker in a step.
    """
    operations = work.rows * sequence_operations(job, source=work.source, target=work.target)
    hours = None
    if gpus is not None:
        hours = operations / (gpus.gpu.rate * gpus.count * efficiency) / 3600
    gpu_hours = None if hours is None or gpus is None else hours * gpus.count
    width = job.training.weight_bytes
    return Cost(
        steps=work.steps,
        tokens=work.tokens,
        operations=operations,
        hours=hours,
        gpu_hours=gpu_hours,
        price=None if gpu_hours is None or price is None else gpu_hours * price,
        sent=sent_bytes(job, passes=passes),
        checkpoints=(checkpoints + 1)
        * _CHECKPOINT_VALUES
        * 4
        * job.trained,  # the oldest goes after the newest is whole
        export=width * (job.adapter or job.total),
    )


def sequence_operations(job: Job, *, source: float, target: float) -> float:
    """Return the operations of one sequence, forward and backward. source, target: its tokens, see `Work`."""
    model, training = job.model, job.training
    layers = parameters.linears(model)
    passes = 3.0 if training.adapted is None else 2.0
    again = 1.0 if training.checkpointing else 0.0
    if model.get("model_type") in ENCODER_DECODERS:
        forward = _encoder_decoder(model, source, target)
    else:
        width = parameters.attention_heads(model)[0] * parameters.attention_heads(model)[1]
        number = parameters.size(model, "num_hidden_layers")
        weights = sum(layer.inputs * layer.outputs * layer.copies for layer in layers)
        causal = 1.0 if job.forward.masked else 0.5  # a kernel with a mask computes all scores
        forward = 2 * weights * source + 4 * causal * number * width * source**2
    head = 2 * _embedding(model) * target
    return forward * (passes + again) + head * (3.0 if training.adapted is None else 2.0)


def sent_bytes(job: Job, *, passes: int) -> int:
    """Return the bytes that a worker receives in one step: sums of gradients and gathered weights (Rajbhandari 2020, 7)."""
    if job.workers == 1:
        return 0
    width, share = job.training.weight_bytes, (job.workers - 1) / job.workers
    gradients = width * job.trained
    if job.stage == 3:  # weights for each forward and backward pass, and gradients of each
        return round(share * passes * (2 * width * (job.total + job.adapter) + gradients))
    sums = passes if job.stage == 2 else 1
    return round(share * (sums + 1) * gradients)  # and the updated weights, of the same size


def _encoder_decoder(model: Mapping[str, Any], source: float, target: float) -> float:
    encoder, decoder = parameters.stack_layers(model)
    hidden, inner = parameters.size(model, "d_model"), parameters.size(model, "d_ff")
    width = parameters.size(model, "num_heads") * parameters.size(model, "d_kv")
    gates = 3 if parameters.feed_forward(model).startswith("gated-") else 2
    attention, feed = 4 * hidden * width, gates * hidden * inner
    first = encoder * (2 * (attention + feed) * source + 4 * width * source**2)
    own = 2 * (attention + feed + 2 * hidden * width) * target + 4 * width * target**2
    across = 2 * (2 * hidden * width) * source + 4 * width * source * target
    return first + decoder * (own + across)


def _embedding(model: Mapping[str, Any]) -> int:
    hidden = "d_model" if model.get("model_type") in ENCODER_DECODERS else "hidden_size"
    return parameters.size(model, "vocab_size") * parameters.size(model, hidden)
