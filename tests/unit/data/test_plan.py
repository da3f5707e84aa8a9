"""The batch plan: every row once an epoch, found without walking, the same for any number of workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medray.data.order import WEIGHTLESS, Order, rank_slots

SHAPES = [((5,), 4, 1), ((3, 3, 3, 2), 4, 2), ((7, 1, 9, 4, 4, 4, 2), 8, 3), ((2,) * 11, 3, 8), ((1,), 8, 1)]


def pairs(order: Order, epoch: int) -> list[tuple[int, int]]:
    first = epoch * order.steps_per_epoch
    batches = [order.batch(step) for step in range(first, first + order.steps_per_epoch)]
    return [(int(s), int(r)) for batch in batches for s, r in zip(batch.shards, batch.rows, strict=True)]


@pytest.mark.parametrize(("shards", "batch", "window"), SHAPES)
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_row_once_an_epoch(shards: tuple[int, ...], batch: int, window: int, epoch: int) -> None:
    order = Order(shards, 3, batch, window)
    found = pairs(order, epoch)
    real = [pair for pair in found if pair[0] != WEIGHTLESS]
    assert sorted(real) == [(shard, row) for shard, count in enumerate(shards) for row in range(count)]
    assert len(found) == order.steps_per_epoch * batch
    assert found[: len(real)] == real, "weightless rows stand at the end"


@pytest.mark.parametrize(("shards", "batch", "window"), SHAPES)
def test_a_window_holds_its_own_shards_only(shards: tuple[int, ...], batch: int, window: int) -> None:
    order = Order(shards, 3, batch, window)
    found = [pair for pair in pairs(order, 0) if pair[0] != WEIGHTLESS]
    turns = [
        shard
        for shard, _ in itertools.groupby(
            found, key=lambda pair: list(order.shard_order(0)).index(pair[0]) // window
        )
    ]
    assert turns == sorted(set(turns))


def test_seed_and_epoch_decide_the_order_and_nothing_else() -> None:
    one, same, other = (Order((6, 6, 6), seed, 4, 2) for seed in (1, 1, 2))
    assert pairs(one, 0) == pairs(same, 0)
    assert pairs(one, 0) != pairs(other, 0)
    assert pairs(one, 0) != pairs(one, 1)


def test_a_late_step_is_found_without_the_ones_before() -> None:
    order = Order((2048,) * 5000, 1, 64, 8)
    batch = order.batch(500_000)
    assert batch.epoch == 500_000 // order.steps_per_epoch
    assert batch.real == 64
    assert len({(int(s), int(r)) for s, r in zip(batch.shards, batch.rows, strict=True)}) == 64


@pytest.mark.parametrize(("ranks", "micro", "accumulation"), [(1, 2, 4), (2, 2, 2), (4, 2, 1), (3, 1, 3)])
def test_ranks_share_the_slots_out(ranks: int, micro: int, accumulation: int) -> None:
    slots = ranks * micro * accumulation
    shares = [rank_slots(slots, ranks, micro, rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {accumulation}
    assert sorted(np.concatenate([list(part) for share in shares for part in share])) == list(range(slots))
