"""The order of rows holds every row once per pass, window by window, and ranks share it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest

from medray.data.batching.order import Stream, rank_slots

SHARDS = {
    "one row": (1,),
    "one shard": (13,),
    "even": (4,) * 6,
    "uneven": (7, 1, 5, 5, 2, 9, 3),
    "empty ones": (0, 3, 0, 0, 4, 2, 0),
    "many": tuple(random.Random(1).randint(1, 6) for _ in range(40)),
}
each_shape = pytest.mark.parametrize(
    ("rows", "seed", "window_shards"),
    [
        (rows, seed, window)
        for rows, (seed, window) in product(
            SHARDS.values(), [(0, 1), (3, 2), (3, 3), (7, 1), (1, 100), (2**40, 4)]
        )
    ],
    ids=[f"{name}-{window}" for name, window in product(SHARDS, ["1", "2", "3", "1b", "all", "4"])],
)


def stream(rows: tuple[int, ...], seed: int, window_shards: int, corpus: int | None = None) -> Stream:
    return Stream(range(len(rows)), rows, seed, window_shards, corpus)


def taken(order: Stream, epoch: int) -> list[tuple[int, int]]:
    pairs = order.take(epoch * order.length, (epoch + 1) * order.length)
    return [(shard, row) for shard, row in pairs.tolist()]


def all_rows(rows: tuple[int, ...]) -> set[tuple[int, int]]:
    return {(shard, row) for shard, count in enumerate(rows) for row in range(count)}


def first_release(
    rows: tuple[int, ...], seed: int, window_shards: int, epoch: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (shards, (shard, row) pairs) of an epoch by the first release's arithmetic, on which running runs rely."""

    def draw(*entropy: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    shards = draw(seed, epoch).permutation(len(rows))
    order: list[tuple[int, int]] = []
    for window, first in enumerate(range(0, len(rows), window_shards)):
        pairs = [
            (shard, row) for shard in shards[first : first + window_shards] for row in range(rows[shard])
        ]
        if pairs:
            order += [(int(s), int(r)) for s, r in draw(seed, epoch, window).permutation(np.array(pairs))]
    return shards.tolist(), order


@each_shape
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_is_that_of_the_first_release(
    rows: tuple[int, ...], seed: int, window_shards: int, epoch: int
) -> None:
    shards, pairs = first_release(rows, seed, window_shards, epoch)
    order = stream(rows, seed, window_shards)
    assert taken(order, epoch) == pairs
    if epoch == 0:
        assert order.shard_order().tolist() == shards


def test_the_order_of_a_small_corpus_is_fixed() -> None:
    """Fixed values detect changes of NumPy's generators as well as of this code."""
    expected = [(0, 2), (0, 0), (2, 1), (0, 1), (2, 0), (1, 0), (1, 1)]
    assert taken(stream((3, 2, 2), 7, 2), 0) == expected


@each_shape
@pytest.mark.parametrize("corpus", [None, 0, 3])
def test_every_row_comes_exactly_once_a_pass(
    rows: tuple[int, ...], seed: int, window_shards: int, corpus: int | None
) -> None:
    order = stream(rows, seed, window_shards, corpus)
    for epoch in (0, 1, 4):
        assert Counter(taken(order, epoch)) == Counter(all_rows(rows))


@each_shape
def test_a_window_is_finished_before_the_next_begins(
    rows: tuple[int, ...], seed: int, window_shards: int
) -> None:
    order = stream(rows, seed, window_shards)
    for epoch in (0, 2):
        pairs, starts = taken(order, epoch), order.starts(epoch).tolist()
        assert (starts[0], starts[-1]) == (0, order.length)
        seen: set[int] = set()
        for first, last in pairwise(starts):
            window = {shard for shard, _ in pairs[first:last]}
            assert len(window) <= window_shards
            assert not window & seen
            seen |= window


@each_shape
def test_any_part_equals_a_walk(rows: tuple[int, ...], seed: int, window_shards: int) -> None:
    order = stream(rows, seed, window_shards)
    walked = [pair for epoch in range(6) for pair in taken(order, epoch)]
    draw = random.Random(0)
    for _ in range(30):
        first, last = sorted(draw.choices(range(len(walked) + 1), k=2))
        assert [tuple(pair) for pair in order.take(first, last).tolist()] == walked[first:last]
        needed = {shard for shard, _ in walked[first:last]}
        assert needed <= set(order.shards(first, last))


def test_shards_are_named_for_whole_windows_and_no_more() -> None:
    order = stream((4,) * 6, 0, 2)
    shards = order.shard_order().tolist()
    assert order.shards(0, 1) == shards[:2]
    assert order.shards(7, 9) == shards[:4]
    assert order.shards(8, 8) == []
    assert order.windows() == [(0, shards[:2]), (8, shards[2:4]), (16, shards[4:])]


def test_only_seed_pass_and_corpus_change_the_order() -> None:
    def of(seed: int, epoch: int, corpus: int | None = None) -> tuple[tuple[int, int], ...]:
        return tuple(taken(stream((8,) * 8, seed, 2, corpus), epoch))

    assert of(1, 0) == of(1, 0)
    assert of(1, 0, 2) == of(1, 0, 2)
    variants = [
        of(1, 0),
        of(2, 0),
        *(of(1, epoch) for epoch in range(1, 6)),
        *(of(1, 0, c) for c in range(4)),
    ]
    assert len(set(variants)) == len(variants)


def test_rows_of_one_shard_have_a_different_order_in_each_pass_and_window() -> None:
    one = stream((20,), 1, 1)
    assert len({tuple(taken(one, epoch)) for epoch in range(4)}) == 4
    rows = [row for _, row in taken(stream((20,) * 4, 1, 1), 0)]
    assert len({tuple(rows[first : first + 20]) for first in range(0, 80, 20)}) == 4


def test_rows_are_mixed_within_a_window_and_across_its_shards() -> None:
    pairs = taken(stream((50,) * 4, 0, 2), 0)[:100]
    assert [row for _, row in pairs] != sorted(row for _, row in pairs)
    for first in range(0, 100, 25):
        assert len({shard for shard, _ in pairs[first : first + 25]}) == 2, "both shards of the window"


LAYOUTS = [
    (world, micro, accumulation)
    for world, micro, accumulation in product((1, 2, 3, 4, 8), (1, 2, 5), (1, 2, 7))
]


@pytest.mark.parametrize(("world", "micro", "accumulation"), LAYOUTS)
def test_ranks_share_the_slots_out(world: int, micro: int, accumulation: int) -> None:
    slots = world * micro * accumulation
    shares = [rank_slots(slots, world, micro, rank) for rank in range(world)]
    assert all(len(share) == accumulation for share in shares), "all ranks run the same number of forwards"
    assert all(len(part) == micro for share in shares for part in share)
    assert sorted(slot for share in shares for part in share for slot in part) == list(range(slots))


@pytest.mark.parametrize(("world", "micro", "accumulation"), LAYOUTS)
def test_an_accumulation_step_has_consecutive_slots(world: int, micro: int, accumulation: int) -> None:
    turn = world * micro
    for number in range(accumulation):
        slots = [
            slot
            for rank in range(world)
            for slot in rank_slots(turn * accumulation, world, micro, rank)[number]
        ]
        assert slots == list(range(number * turn, (number + 1) * turn))


def test_a_mixed_corpus_is_shuffled_by_seed_pass_window_purpose_and_corpus() -> None:
    """The seed words of each draw are fixed: a resumed or repeated run must find the same rows again."""

    def drawn(*words: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))

    seed, corpus, shards, rows, size = 11, 2, [4, 5, 6, 7, 8], 3, 2
    stream = Stream(shards, [rows] * len(shards), seed, size, corpus=corpus)
    for epoch in range(2):
        order = np.array(shards)[drawn(seed, epoch, 0, 3, corpus + 1).permutation(len(shards))]
        wanted = []
        for window, first in enumerate(range(0, len(shards), size)):
            pairs = np.array([(shard, row) for shard in order[first : first + size] for row in range(rows)])
            wanted += drawn(seed, epoch, window, 4, corpus + 1).permutation(pairs).tolist()
        assert stream.take(epoch * stream.length, (epoch + 1) * stream.length).tolist() == wanted
