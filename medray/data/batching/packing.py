"""Packing of whole rows into sequences of bounded length, and of sequences into batches with a bounded number of tokens.

Only the lengths of rows are needed. Packing is best fit decreasing: the longest row first, each into the sequence with
the smallest free space that fits. The free spaces of all sequences are in one sorted list, which is searched by
bisection. This was compared on windows of 16,000 rows with an integer whose bits are the existing free spaces: the
list is as fast up to 2,048 tokens, several times faster at 131,072, and shorter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

import numpy as np


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Pack rows into sequences and return the number of the sequence of each row, from 0 without gaps; int64 [rows].

    sizes: tokens of each row. A sequence holds at most `capacity` tokens, but a longer row gets a sequence of its own.
    Rows without tokens are spread over the sequences.
    """
    sizes = np.asarray(sizes, np.int64)
    order = np.argsort(-sizes, kind="stable")
    oversized, empty = int((sizes > capacity).sum()), int((sizes == 0).sum())
    filled = slice(oversized, len(order) - empty)
    numbers, sequences = _fill(sizes[order[filled]].tolist(), capacity)
    found = np.empty(len(sizes), np.int64)
    found[order[:oversized]] = np.arange(oversized)
    found[order[filled]] = oversized + np.asarray(numbers, np.int64)
    found[order[len(order) - empty :]] = oversized + np.arange(empty) % max(sequences, 1)
    return found


def _fill(sizes: list[int], capacity: int) -> tuple[list[int], int]:
    """Return (sequence of each row, number of sequences) for rows of 1 to `capacity` tokens, the largest first."""
    # An entry is free space * 2^shift + sequence, so that one integer sorts by free space, then by sequence.
    shift = len(sizes).bit_length()
    rooms: list[int] = []
    numbers: list[int] = []
    sequences = 0
    for size in sizes:
        place = bisect_left(rooms, size << shift)
        if place < len(rooms):
            entry = rooms.pop(place) - (size << shift)
        else:
            entry = ((capacity - size) << shift) + sequences
            sequences += 1
        numbers.append(entry & ((1 << shift) - 1))
        if entry >> shift:
            insort(rooms, entry)
    return numbers, sequences


def cut_by_tokens(sizes: np.ndarray, limit: int) -> np.ndarray:
    """Cut consecutive items into batches of about equal numbers of tokens, and return the end of each batch; int64
    [batches].

    sizes: tokens of each item. There are as few batches as possible with at most `limit` tokens each; a longer item is
    a batch of its own. Each cut is as near to an equal share of the remaining tokens as the limit allows for the rest.
    """
    count = len(sizes)
    tokens = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    # In the shares, an oversized row counts as one full batch.
    shares = [0, *np.cumsum(np.minimum(sizes, limit), dtype=np.int64).tolist()]

    def furthest(start: int) -> int:
        return max(bisect_right(tokens, tokens[start] + limit) - 1, start + 1)

    batches, at = 0, 0
    while at < count:
        batches, at = batches + 1, furthest(at)
    earliest = [count] * (
        batches + 1
    )  # the earliest start of batch i such that the rest fits into the batches from i on
    for batch in range(batches - 1, -1, -1):
        end = earliest[batch + 1]
        earliest[batch] = min(bisect_left(tokens, tokens[end] - limit), end - 1)
    ends, at = [], 0
    for batch in range(1, batches):
        share = shares[at] + (shares[-1] - shares[at]) // (batches - batch + 1)
        end = bisect_left(shares, share)
        if end and share - shares[end - 1] < shares[end] - share:
            end -= 1
        least, most = max(earliest[batch], at + 1), min(furthest(at), count - (batches - batch))
        at = min(max(end, least), most)
        ends.append(at)
    return np.asarray([*ends, count] if count else [], np.int64)
