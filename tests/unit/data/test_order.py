"""The batch plan: every row once an epoch, any step at once, the same for any number of workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from medray.data.order import WEIGHTLESS, Order, rank_slots

SHARDS = {
    "one row": (1,),
    "one shard": (13,),
    "even": (4,) * 6,
    "uneven": (7, 1, 5, 5, 2, 9, 3),
    "many": tuple(random.Random(1).randint(1, 6) for _ in range(40)),
}
SHAPES = [
    Order(shards, seed, batch, window)
    for shards, (seed, batch, window) in product(
        SHARDS.values(), [(0, 1, 1), (3, 4, 2), (3, 5, 3), (7, 32, 1), (1, 8, 100), (2**40, 3, 4)]
    )
]
each_shape = pytest.mark.parametrize(
    "order",
    SHAPES,
    ids=lambda order: f"{len(order.shard_rows)}x{order.rows}-{order.global_batch_size}-{order.window_shards}",
)


def walk(order: Order, epoch: int) -> Iterator[tuple[int, int]]:
    """(shard, row) of every slot of an epoch, weightless ones too."""
    steps = order.steps_per_epoch
    for step in range(epoch * steps, (epoch + 1) * steps):
        batch = order.batch(step)
        assert batch.epoch == epoch
        assert len(batch.shards) == len(batch.rows) == order.global_batch_size
        yield from zip(batch.shards.tolist(), batch.rows.tolist(), strict=True)


def real(order: Order, epoch: int) -> list[tuple[int, int]]:
    return [pair for pair in walk(order, epoch) if pair != (WEIGHTLESS, WEIGHTLESS)]


def all_rows(order: Order) -> set[tuple[int, int]]:
    return {(shard, row) for shard, count in enumerate(order.shard_rows) for row in range(count)}


@each_shape
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_row_comes_exactly_once_an_epoch(order: Order, epoch: int) -> None:
    assert Counter(real(order, epoch)) == Counter(all_rows(order))


@each_shape
def test_only_the_end_of_an_epoch_is_filled_up(order: Order) -> None:
    slots = list(walk(order, 1))
    rows = order.rows
    assert len(slots) == order.steps_per_epoch * order.global_batch_size
    assert len(slots) - rows < order.global_batch_size
    assert slots[rows:] == [(WEIGHTLESS, WEIGHTLESS)] * (len(slots) - rows)
    assert all(shard != WEIGHTLESS for shard, _ in slots[:rows])
    last = order.batch(2 * order.steps_per_epoch - 1)
    assert last.real == order.global_batch_size - (len(slots) - rows)


@each_shape
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_window_is_finished_before_the_next_begins(order: Order, epoch: int) -> None:
    shards = order.shard_order(epoch).tolist()
    assert sorted(shards) == list(range(len(order.shard_rows)))
    rows = real(order, epoch)
    for first in range(0, len(shards), order.window_shards):
        window = shards[first : first + order.window_shards]
        size = sum(order.shard_rows[shard] for shard in window)
        assert {pair for pair in all_rows(order) if pair[0] in window} == set(rows[:size])
        rows = rows[size:]
    assert not rows


@each_shape
def test_a_step_found_alone_is_the_step_that_walking_gives(order: Order) -> None:
    """The walk visits all windows of three epochs, more than any cache holds; then steps come in a random order."""
    walked = [order.batch(step) for step in range(3 * order.steps_per_epoch)]
    steps = list(range(len(walked)))
    random.Random(0).shuffle(steps)
    for step in steps:
        alone = order.batch(step)
        assert alone.epoch == walked[step].epoch
        np.testing.assert_array_equal(alone.shards, walked[step].shards)
        np.testing.assert_array_equal(alone.rows, walked[step].rows)


@each_shape
def test_the_size_of_a_batch_cuts_the_order_and_does_not_change_it(order: Order) -> None:
    whole = Order(order.shard_rows, order.seed, order.rows, order.window_shards)
    assert real(order, 1) == real(whole, 1)


def test_seed_and_epoch_and_nothing_else_change_the_order() -> None:
    def orders(seed: int) -> list[tuple[int, int]]:
        return real(Order((8,) * 8, seed, 4, 2), 0)

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    order = Order((8,) * 8, 1, 4, 2)
    assert len({tuple(real(order, epoch)) for epoch in range(6)}) == 6
    assert len({tuple(order.shard_order(epoch).tolist()) for epoch in range(6)}) == 6


def test_rows_of_one_shard_come_in_another_order_each_epoch_and_window() -> None:
    one = Order((20,), 1, 4, 1)
    assert len({tuple(real(one, epoch)) for epoch in range(4)}) == 4
    rows = [row for _, row in real(Order((20,) * 4, 1, 4, 1), 0)]
    assert len({tuple(rows[first : first + 20]) for first in range(0, 80, 20)}) == 4


def test_rows_are_mixed_within_a_window_and_across_its_shards() -> None:
    order = Order((50,) * 4, 0, 25, 2)
    rows = real(order, 0)[:100]
    assert [row for _, row in rows] != sorted(row for _, row in rows)
    for step in range(4):
        assert len(set(order.batch(step).shards.tolist())) == 2, "each batch mixes both shards of its window"


def test_a_late_step_of_a_large_corpus_costs_no_walk() -> None:
    """Ten million rows: the rows of step 10^9 in far less than a walk over a single epoch."""
    order = Order((2048,) * 5000, 0, 64, 8)
    batch = order.batch(10**9)
    assert batch.epoch == 10**9 // order.steps_per_epoch
    assert batch.real == len(set(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))) == 64


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
def test_an_accumulation_step_is_a_run_of_neighbouring_slots(
    world: int, micro: int, accumulation: int
) -> None:
    turn = world * micro
    for number in range(accumulation):
        slots = [
            slot
            for rank in range(world)
            for slot in rank_slots(turn * accumulation, world, micro, rank)[number]
        ]
        assert slots == list(range(number * turn, (number + 1) * turn))


def test_the_rows_of_a_step_are_the_same_for_any_number_of_workers() -> None:
    order = Order((7, 1, 5, 5, 2, 9, 3), 3, 8, 2)
    for step in range(2 * order.steps_per_epoch):
        batch = order.batch(step)
        wanted = Counter(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))
        for world, micro in ((1, 8), (1, 2), (2, 2), (4, 1), (8, 1)):
            computed = Counter(
                (int(batch.shards[slot]), int(batch.rows[slot]))
                for rank in range(world)
                for part in rank_slots(8, world, micro, rank)
                for slot in part
            )
            assert computed == wanted
