"""The choice of how a run computes its loss: smoothed or not, and for how many tokens at once. Probes the model once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.errors import InputError
from medray.methods.cross_entropy import TokenLoss, chosen_chunk
from medray.models.probes import takes_losses, vocabulary_size
from medray.train.engine import Engine
from medray.train.loop.batch_reader import batch_layout


def token_loss(config: Config, engine: Engine, *, seq2seq: bool, say: Callable[[str], None]) -> TokenLoss:
    """Return how this run computes its loss. Collective.

    Raises InputError if the config asks for chunks and the model's head cannot be run on them.
    """
    train, vocabulary = config.train, vocabulary_size(engine.model)
    # A forward for encodings makes all logits at once.
    whole = spec_of(config.method).encodings is not None
    chosen = chosen_chunk(0 if whole else train.loss_chunk_tokens, vocabulary)
    if (chunk := chosen.chunk_tokens) is not None:
        if _most_tokens(config, engine.world_size) <= chosen.more_than:
            chosen = TokenLoss()  # no micro-batch is that large
        elif takes_losses(engine.model, engine.device, seq2seq=seq2seq):
            say(
                f"the loss of a micro-batch of more than {max(chosen.more_than, chunk):,} tokens is computed {chunk:,} at a "
                f"time: the vocabulary has {vocabulary:,}"
            )
        elif train.loss_chunk_tokens is not None:
            raise InputError(
                "this model changes its logits after a head that is a separate module, or has an adapter in its head "
                "under ZeRO stage 3: its loss needs all logits at once",
                key="train.loss_chunk_tokens",
                value=train.loss_chunk_tokens,
                fix="set train.loss_chunk_tokens: null",
            )
        else:
            chosen = TokenLoss()
    return replace(chosen, label_smoothing=train.label_smoothing)


def _most_tokens(config: Config, world_size: int) -> int:
    """Return the most tokens that one forward can have, in training or evaluation."""
    data, spec = config.data, spec_of(config.method)
    row = data.longest_input + max(task.limit(data) for task in spec.encoded)
    row *= max((len(tasks) for tasks in spec.row_groups), default=1)  # those of a group share a forward
    rows = max(batch_layout(config.train, world_size).micro_batch_size, config.eval.batch_size)
    return rows * max(row, data.pack_tokens or 0)
