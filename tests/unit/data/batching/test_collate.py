"""Collation pads the right side, handles rows without weight, and gives the right shapes and types."""

from __future__ import annotations

import numpy as np
import pytest

from medray.data.batching.collate import NO_TASK, collate, collate_packed, prompts
from medray.data.encode import IGNORED

PAD = 9
EMPTY = (np.array([], np.int32), np.array([], np.int32))


def pair(ids: list[int], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, np.int32), np.array(labels, np.int32)


def test_causal_rows_are_padded_on_the_left() -> None:
    batch = collate(
        "label", [pair([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4]), pair([5, 6], [IGNORED, 6])], "causal", PAD
    )
    assert batch.task == "label"
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [PAD, PAD, 5, 6]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 3, 4], [IGNORED, IGNORED, IGNORED, 6]]


def test_seq2seq_rows_are_padded_on_the_right_source_and_target_apart() -> None:
    batch = collate("rationale", [pair([1, 2, 3], [4]), pair([5], [6, 7, 8, 9])], "seq2seq", PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3], [5, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[4, IGNORED, IGNORED, IGNORED], [6, 7, 8, 9]]


def test_a_pad_token_inside_a_row_is_read() -> None:
    """The mask comes from lengths, not from ids, because some models pad with their end token."""
    batch = collate("label", [pair([1, PAD], [IGNORED, PAD]), pair([2], [IGNORED])], "causal", PAD)
    assert batch.attention_mask.tolist() == [[1, 1], [0, 1]]
    assert batch.labels.tolist() == [[IGNORED, PAD], [IGNORED, IGNORED]]


def test_the_first_token_of_a_causal_row_has_no_label() -> None:
    """Only padding comes before the first token, even if the prompt is trained too, and nothing is learnt from padding."""
    rows = [pair([1, 2, 3], [1, 2, 3]), pair([5, 6], [5, 6])]
    assert collate("label", rows, "causal", PAD).labels.tolist() == [[IGNORED, 2, 3], [IGNORED, IGNORED, 6]]
    assert collate("label", rows, "seq2seq", PAD).labels.tolist() == [[1, 2, 3], [5, 6, IGNORED]]
    assert rows[0][1].tolist() == [1, 2, 3], "the store's own array was written to"


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_rows_without_weight_have_no_loss_and_one_token_to_read(architecture: str) -> None:
    rows = [pair([1, 2], [IGNORED, 2]), None, EMPTY]
    batch = collate("label", rows, architecture, PAD)  # type: ignore[arg-type]
    assert batch.input_ids.shape == (3, 2)
    assert (batch.labels[1:] == IGNORED).all()
    assert batch.attention_mask.sum(axis=1).tolist() == [2, 1, 1], (
        "a row of padding alone makes NaN in softmax"
    )


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_a_batch_of_only_rows_without_weight(architecture: str) -> None:
    batch = collate("rationale", [None, EMPTY], architecture, PAD)  # type: ignore[arg-type]
    assert batch.input_ids.tolist() == [[PAD], [PAD]]
    assert batch.labels.tolist() == [[IGNORED], [IGNORED]]
    assert batch.attention_mask.tolist() == [[1], [1]]


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_arrays_are_int64_and_no_wider_than_their_longest_row(architecture: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for size in rng.integers(1, 30, 8).tolist():
        ids = rng.integers(10, 99, size)
        labels = [IGNORED, *ids[1:].tolist()] if architecture == "causal" else ids[: size // 2 + 1].tolist()
        rows.append(pair(ids.tolist(), labels))
    batch = collate("label", rows, architecture, PAD)  # type: ignore[arg-type]
    assert batch.input_ids.shape == batch.attention_mask.shape == (8, max(len(ids) for ids, _ in rows))
    assert batch.labels.shape == (8, max(len(labels) for _, labels in rows))
    for array in (batch.input_ids, batch.attention_mask, batch.labels):
        assert array.dtype == np.int64
    for row, (ids, labels) in enumerate(rows):
        assert batch.input_ids[row][batch.attention_mask[row] == 1].tolist() == ids.tolist()
        assert batch.labels[row][batch.labels[row] != IGNORED].tolist() == labels[labels != IGNORED].tolist()


def test_packed_segments_are_concatenated_and_positions_restart() -> None:
    batch = collate_packed(
        [
            [(0, *pair([1, 2, 3], [IGNORED, 2, 3])), (1, *pair([4, 5], [IGNORED, 5]))],
            [(1, *pair([6], [IGNORED]))],
        ],
        PAD,
    )
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, PAD, PAD, PAD, PAD]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    assert batch.task_ids.tolist() == [[0, 0, 0, 1, 1], [1, *[NO_TASK] * 4]]
    assert batch.labels.tolist() == [[IGNORED, 2, 3, IGNORED, 5], [IGNORED] * 5]
    for array in (batch.input_ids, batch.position_ids, batch.task_ids, batch.labels):
        assert array.dtype == np.int64


def test_the_first_token_of_a_segment_has_no_label() -> None:
    rows = [pair([1, 2], [1, 2]), pair([3, 4], [3, 4])]
    batch = collate_packed([[(0, *row) for row in rows]], PAD)
    assert batch.labels.tolist() == [[IGNORED, 2, IGNORED, 4]]
    assert rows[1][1].tolist() == [3, 4]


def test_absent_tasks_and_empty_sequences_are_padding() -> None:
    batch = collate_packed([[(0, *EMPTY), (1, *pair([7, 8], [IGNORED, 8]))], [(0, *EMPTY)], []], PAD)
    assert batch.input_ids.tolist() == [[7, 8], [PAD, PAD], [PAD, PAD]]
    assert batch.task_ids.tolist() == [[1, 1], [NO_TASK] * 2, [NO_TASK] * 2]
    nothing = collate_packed([[], [(0, *EMPTY)]], PAD)
    assert nothing.input_ids.tolist() == [[PAD], [PAD]]
    assert nothing.labels.tolist() == [[IGNORED], [IGNORED]]


def test_causal_prompts_end_together() -> None:
    batch = prompts([np.array([1, 2], np.int32), np.array([5], np.int32)], "causal", PAD)
    assert batch.input_ids.tolist() == [[1, 2], [PAD, 5]]
    assert batch.attention_mask.tolist() == [[1, 1], [0, 1]]
    assert batch.labels.shape == (2, 0)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64


def test_seq2seq_prompts_begin_together() -> None:
    batch = prompts([np.array([1, 2, 3]), np.array([5])], "seq2seq", PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3], [5, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
