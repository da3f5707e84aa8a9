"""Rows to rectangular arrays. NumPy only: the data room knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medray.data.encode import IGNORED


@dataclass(frozen=True)
class MicroBatch:
    """One task of a micro-batch, int64.

    causal: input_ids, attention_mask, labels [batch, seq], padded on the left so that targets end together: the
    fewer columns hold a target, the fewer logits are computed. seq2seq: input_ids, attention_mask [batch, source],
    labels [batch, target], padded on the right.
    """

    task: str
    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray


def collate(
    task: str,
    examples: Sequence[tuple[np.ndarray, np.ndarray] | None],
    architecture: Literal["causal", "seq2seq"],
    pad_id: int,
) -> MicroBatch:
    """Pads (input_ids, labels) pairs; None and empty pairs become rows without any loss token."""
    filler = (np.array([pad_id]), np.array([IGNORED]))
    pairs = [filler if pair is None or not len(pair[0]) else pair for pair in examples]
    left = architecture == "causal"
    return MicroBatch(
        task,
        pad([ids for ids, _ in pairs], pad_id, left=left),
        pad([np.ones_like(ids) for ids, _ in pairs], 0, left=left),
        pad([labels for _, labels in pairs], IGNORED, left=left),
    )


def prompts(examples: Sequence[tuple[np.ndarray, np.ndarray]], architecture: str, pad_id: int) -> MicroBatch:
    """What generation starts from: causal sequences up to their first target token, sources as they are."""
    if architecture == "causal":
        examples = [(ids[labels == IGNORED], np.array([IGNORED])) for ids, labels in examples]
    left = architecture == "causal"
    ids = [ids for ids, _ in examples]
    mask = pad([np.ones_like(row) for row in ids], 0, left=left)
    return MicroBatch("prompt", pad(ids, pad_id, left=left), mask, np.empty((len(ids), 0), np.int64))


def pad(rows: Sequence[np.ndarray], value: int, *, left: bool) -> np.ndarray:
    """[len(rows), longest] int64, filled with `value`."""
    out = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for line, row in zip(out, rows, strict=True):
        if left:
            line[len(line) - len(row) :] = row
        else:
            line[: len(row)] = row
    return out
