"""Rows of a finished run on which its weights are compared in their different forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from medray.config.method import MethodConfig
from medray.data.index.membership import SplitIndex
from medray.data.shards.seal import DamagedShardError
from medray.data.shards.shard_file import ShardStore
from medray.errors import InputError
from medray.evaluate.validation import Validation
from medray.methods import loss_of
from medray.models.export.verify import ROWS, TokenRow, made_up
from medray.train.run_folder.finished_run import FinishedRun

# One pass over so many tokens in float32 takes a 135M model a minute on two CPU cores; three models are measured.
MOST_ROWS, MOST_TOKENS = 64, 8192
LABEL = loss_of(MethodConfig())


class Sample:
    """Rows of the validation split, spread evenly over it; of the training split where a run has no other.

    Without any token shards left the rows are made-up ids, and there is no loss. words: where the rows are from.
    """

    def __init__(self, run: FinishedRun, *, vocabulary: int, seq2seq: bool) -> None:
        self._validation: Validation | None = None
        for split in ("validation", "train"):
            if (found := _rows(run, split, seq2seq=seq2seq)) is not None:
                break
        else:
            self.rows, self.words = made_up(vocabulary, seq2seq), f"{ROWS} rows of made-up ids"
            return
        self._validation = found
        self._tokens = found.totals(LABEL)["label"]
        rows = [found.store.example(*place, "label") for place in found.rows[:ROWS]]
        self.rows = [TokenRow(ids, target if seq2seq else None).cut() for ids, target in rows]
        what = "training split, as the run has no validation rows" if split == "train" else "validation split"
        self.words = f"{len(found.rows)} rows of the {what} ({self._tokens:,} tokens)"

    def loss(self, model: Any) -> float | None:
        """Mean loss per token of the label task, in nats; None where no rows are left."""
        if self._validation is None:
            return None
        device = next(model.parameters()).device
        return self._validation.loss_sums(model, LABEL, device, 0, 1)["label"] / self._tokens


def _rows(run: FinishedRun, split: str, *, seq2seq: bool) -> Validation | None:
    """Rows of a split that have a label; None where the split or its tokens are not there."""
    if run.tokens is None or split not in run.manifests:
        return None
    # The shards are a cache: what is gone or damaged is left out.
    try:
        index = SplitIndex.read(run.tokens / split / "index.json")
    except (OSError, InputError):
        return None
    store = ShardStore(run.tokens / split)
    there = [shard for shard in index.shards if store.has(shard.index)]
    able: dict[tuple[int, int], int] = {}
    for at in _spread(len(there), 8):  # a shard is read whole, so the rows come from a few of them only
        shard = there[at].index
        try:
            lengths, targets = (store.counts(shard, "label", name) for name in ("length", "loss_tokens"))
        except (OSError, DamagedShardError):
            continue
        able |= {(shard, row): int(lengths[row]) for row in range(len(lengths)) if targets[row] > 0}
    if not able:
        return None
    every = list(able)
    mean = float(np.mean(list(able.values())))
    count = min(MOST_ROWS, max(int(MOST_TOKENS / mean), 1))
    rows = tuple(every[at] for at in _spread(len(every), count))
    # A row at a time: nothing is padded, so a row's loss is its own.
    return Validation(store, rows, "seq2seq" if seq2seq else "causal", 0, 1)


def _spread(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, evenly spread, the first among them."""
    return sorted({int(at) for at in np.linspace(0, size, min(size, count), endpoint=False)})
