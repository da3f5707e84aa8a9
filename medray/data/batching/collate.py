"""Padding of rows to rectangular arrays (collation). It needs only NumPy: medray.data does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medray.data.encode import IGNORED

NO_TASK = -1  # the task of padding

Example = tuple[np.ndarray, np.ndarray]  # (input_ids, labels)
Segment = tuple[int, np.ndarray, np.ndarray]  # (index of the task, input_ids, labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """The padded rows of one task in a micro-batch, int64 arrays.

    Causal models: input_ids, attention_mask and labels are [batch, seq], padded on the left, so that all targets end
    in the same column and logits are computed for few columns. Encoder-decoders (seq2seq): input_ids and
    attention_mask are [batch, source], labels are [batch, target], all padded on the right.
    """

    task: str
    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedMicroBatch:
    """The padded rows of several tasks in one micro-batch, sorted by task; otherwise like MicroBatch.

    task_ids: int64 [batch], ascending: the index of each row's task in the method. A row without its task has no loss.
    reference: log-probabilities of each record's answers under the frozen reference model (preference training), float32
    [values, records]; None for other methods, or if the batch does not have all tasks of the same records.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    task_ids: np.ndarray
    reference: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedMicroBatch:
    """A micro-batch of packed sequences with all tasks, for causal models; int64 [batch, seq], padded on the right.

    A segment is one task of one row. position_ids restart at 0 with every segment. task_ids: the index of each token's
    task in the method; NO_TASK on padding. Each padding token is a segment of its own with position 0, so no position
    exceeds the longest segment. reference: log-probabilities of each row's answers under the frozen reference model
    (preference training), float32 [values, rows]; None for other methods.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    task_ids: np.ndarray
    row_ids: np.ndarray
    labels: np.ndarray
    reference: np.ndarray | None = None


def collate(
    task: str,
    examples: Sequence[Example | None],
    architecture: Literal["causal", "seq2seq"],
    pad_id: int,
) -> MicroBatch:
    """Pad (input_ids, labels) pairs to a MicroBatch. None and empty pairs become rows without loss tokens.

    The first token of a causal sequence has no label, because nothing before it could predict it.
    """
    filler = (np.array([pad_id]), np.array([IGNORED]))
    pairs = [filler if pair is None or not len(pair[0]) else pair for pair in examples]
    left = architecture == "causal"
    ids, taken = _pad([ids for ids, _ in pairs], pad_id, left=left)
    labels, labelled = _pad([labels for _, labels in pairs], IGNORED, left=left)
    if architecture == "causal":
        labels[np.arange(len(pairs)), labelled.argmax(axis=1)] = IGNORED
    return MicroBatch(task=task, input_ids=ids, attention_mask=taken.astype(np.int64), labels=labels)


def collate_mixed(
    rows: Sequence[tuple[int, Example | None]], architecture: Literal["causal", "seq2seq"], pad_id: int
) -> MixedMicroBatch:
    """Pad (index of the task, example) pairs, sorted by index, to a MixedMicroBatch. Padding is as in `collate`."""
    micro = collate("", [example for _, example in rows], architecture, pad_id)
    task_ids = np.array([task for task, _ in rows], np.int64)
    return MixedMicroBatch(
        input_ids=micro.input_ids, attention_mask=micro.attention_mask, labels=micro.labels, task_ids=task_ids
    )


def collate_packed(
    sequences: Sequence[Sequence[Segment]], pad_id: int, rows: Sequence[Sequence[int]] | None = None
) -> PackedMicroBatch:
    """Pack the segments of each sequence one after another, skipping empty segments.

    rows: number of each segment's row, ascending from 0 over all sequences; None: each segment is a row of its own.
    A sequence without any token becomes padding. The first token of a segment has no label, because the token before
    it belongs to another segment.
    """
    if rows is None:
        ends = np.cumsum([len(sequence) for sequence in sequences]).tolist()
        rows = [range(end - len(sequence), end) for sequence, end in zip(sequences, ends, strict=True)]
    numbers = [
        row
        for sequence, of_it in zip(sequences, rows, strict=True)
        for (_, ids, _), row in zip(sequence, of_it, strict=True)
        if len(ids)
    ]
    kept = [[segment for segment in sequence if len(segment[1])] for sequence in sequences]
    segments = [segment for sequence in kept for segment in sequence]
    sizes = np.array([len(ids) for _, ids, _ in segments], np.int64)
    totals = np.array([sum(len(ids) for _, ids, _ in sequence) for sequence in kept], np.int64)
    taken = np.arange(max(totals.max(initial=0), 1)) < totals[:, None]
    starts = np.cumsum(sizes) - sizes
    labels = _joined([labels for *_, labels in segments])
    labels[starts] = IGNORED
    return PackedMicroBatch(
        input_ids=_spread(_joined([ids for _, ids, _ in segments]), taken, pad_id),
        position_ids=_spread(np.arange(len(labels)) - np.repeat(starts, sizes), taken, 0),
        task_ids=_spread(np.repeat([task for task, *_ in segments], sizes), taken, NO_TASK),
        row_ids=_spread(np.repeat(numbers, sizes), taken, NO_TASK),
        labels=_spread(labels, taken, IGNORED),
    )


def prompts(ids: Sequence[np.ndarray], architecture: str, pad_id: int) -> MicroBatch:
    """Pad the token ids of prompts for generation, without labels.

    For a causal model, all prompts end in the last column.
    """
    padded, taken = _pad(ids, pad_id, left=architecture == "causal")
    return MicroBatch(
        task="prompt",
        input_ids=padded,
        attention_mask=taken.astype(np.int64),
        labels=np.empty((len(ids), 0), np.int64),
    )


def _pad(rows: Sequence[np.ndarray], value: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 [len(rows), longest] filled with `value`, bool mask of the rows' own values)."""
    sizes = np.array([len(row) for row in rows])
    columns = np.arange(sizes.max())
    taken = columns >= (len(columns) - sizes)[:, None] if left else columns < sizes[:, None]
    return _spread(_joined(rows), taken, value), taken


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.empty(0, np.int64)


def _spread(values: np.ndarray, taken: np.ndarray, fill: int) -> np.ndarray:
    """Return an array with `values` at the positions of the mask `taken`, row by row, and `fill` elsewhere."""
    out = np.full(taken.shape, fill, np.int64)
    out[taken] = values
    return out
