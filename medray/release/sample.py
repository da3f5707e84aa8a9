"""The rows of a finished run on which its weights are compared with their released forms."""

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

# A 135M model in float32 needs a minute for this many tokens on two CPU cores; three models are measured.
MOST_ROWS, MOST_TOKENS = 64, 8192
LABEL = loss_of(MethodConfig())


class Sample:
    """Evenly spaced rows of a run's validation split, or of its training split if it has no validation split.

    If no token shards are left, the rows are random ids, and there is no loss. words: description of the rows.
    """

    def __init__(self, run: FinishedRun, *, vocabulary: int, seq2seq: bool) -> None:
        self._validation: Validation | None = None
        for split in ("validation", "train"):
            if (found := _rows(run, split, seq2seq=seq2seq)) is not None:
                break
        else:
            self.rows, self.words = made_up(vocabulary, seq2seq), f"{ROWS} rows of random ids"
            return
        self._validation = found
        self._tokens = found.totals(LABEL)["label"]
        rows = [found.store.example(*row, "label") for row in found.rows[:ROWS]]
        self.rows = [TokenRow(ids, target if seq2seq else None).cut() for ids, target in rows]
        what = "training split, as the run has no validation rows" if split == "train" else "validation split"
        self.words = f"{len(found.rows)} rows of the {what} ({self._tokens:,} tokens)"

    def loss(self, model: Any) -> float | None:
        """Return the mean loss per token of the label task, in nats; None if no rows of the run are left."""
        if self._validation is None:
            return None
        device = next(model.parameters()).device
        return self._validation.loss_sums(model, LABEL, device, 0, 1)["label"] / self._tokens


def _rows(run: FinishedRun, split: str, *, seq2seq: bool) -> Validation | None:
    """Return rows of a split that have a label; None if the split or its tokens are missing."""
    if run.tokens is None or split not in run.manifests:
        return None
    # The shards are a cache: missing or damaged ones are skipped.
    try:
        index = SplitIndex.read(run.tokens / split / "index.json")
    except (OSError, InputError):
        return None
    store = ShardStore(run.tokens / split)
    there = [shard for shard in index.shards if store.has(shard.index)]
    able: dict[tuple[int, int], int] = {}
    for at in _spread(len(there), 8):  # shards are read in full, so the rows come from only a few of them
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
    # One row per batch: without padding, the loss of a row does not depend on other rows.
    return Validation(store, rows, "seq2seq" if seq2seq else "causal", 0, 1)


def _spread(size: int, count: int) -> list[int]:
    """Return at most `count` evenly spaced indices below `size`, including 0."""
    return sorted({int(at) for at in np.linspace(0, size, min(size, count), endpoint=False)})
