"""The steps of a plan hold every row once per epoch, are found directly, and are the same for every caller."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import grids
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from medray.data.batching.batch_plan import Batch, BatchPlan, Corpus, PlanSpec
from medray.data.batching.order import rank_slots

MODES: dict[str, dict[str, Any]] = {
    "rows": {"global_batch_size": 5},
    "buckets": {"global_batch_size": 5, "length_buckets": True},
    "packed": {"global_batch_size": 3, "pack_tokens": 20},
    "tokens": {"global_batch_tokens": 50},
    "tokens in buckets": {"global_batch_tokens": 50, "length_buckets": True},
    "packed to tokens": {"global_batch_tokens": 50, "pack_tokens": 20},
}
SIZED = {"packed", "tokens", "tokens in buckets", "packed to tokens"}
each_mode = pytest.mark.parametrize("mode", MODES)
each_mixing = pytest.mark.parametrize("weighted", [False, True], ids=["pool", "weighted"])


def sizes(shard: int) -> np.ndarray:
    """Return the tokens of up to 12 rows of a shard, from 0 to more than a sequence of 20 holds."""
    return np.random.default_rng(shard).choice([0, 1, 2, 3, 5, 8, 13, 19, 20, 31], 12).astype(np.int32)


def some_spec(seed: int, mode: str, weighted: bool) -> PlanSpec:
    draw = random.Random(seed)
    corpora, first = [], 0
    for _ in range(draw.randint(1, 3)):
        rows = (*(draw.randint(0, 12) for _ in range(draw.randint(0, 7))), draw.randint(1, 12))
        weight = draw.choice([1.0, 0.3, 2.5]) if weighted else None
        corpora.append(Corpus(tuple(range(first, first + len(rows))), rows, weight))
        first += len(rows)
    window = draw.choice([1, 2, 3, 100])
    return PlanSpec(
        corpora=tuple(corpora), seed=draw.choice([0, 7, 2**40]), window_shards=window, **MODES[mode]
    )


def plan(spec: PlanSpec) -> BatchPlan:
    return BatchPlan(spec, sizes)


def pairs(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))


def epoch_of(plan: BatchPlan, epoch: int) -> list[Batch]:
    first = plan.steps(epoch) if epoch else 0
    return [plan.batch(step) for step in range(first, plan.steps(epoch + 1))]


def tokens(batch: Batch) -> list[int]:
    """Return the tokens of every sequence."""
    rows = [int(sizes(shard)[row]) for shard, row in pairs(batch)]
    return [sum(rows[a:b]) for a, b in zip([0, *batch.ends[:-1]], batch.ends, strict=True)]


def same(one: Batch, other: Batch) -> None:
    assert one.epoch == other.epoch
    assert_array_equal(one.shards, other.shards)
    assert_array_equal(one.rows, other.rows)
    assert_array_equal(one.ends, other.ends)


@each_mode
@pytest.mark.parametrize("seed", grids.first(3, range(25)))
def test_every_row_comes_exactly_once_an_epoch(mode: str, seed: int) -> None:
    spec = some_spec(seed, mode, False)
    whole = Counter(
        (shard, row)
        for corpus in spec.corpora
        for shard, rows in zip(corpus.shards, corpus.rows, strict=True)
        for row in range(rows)
    )
    orders = []
    for epoch in (0, 1, 3):
        batches = epoch_of(plan(spec), epoch)
        assert {batch.epoch for batch in batches} == {epoch}
        orders.append([pair for batch in batches for pair in pairs(batch)])
        assert Counter(orders[-1]) == whole
    assert len(whole) < 12 or orders[0] != orders[1] != orders[2]


@each_mode
@pytest.mark.parametrize("seed", grids.first(3, range(15)))
def test_weights_hold_in_every_mode(mode: str, seed: int) -> None:
    """A window of a mixture has the same rows in every mode; over an epoch the rows are those of the mixture."""
    spec = some_spec(seed, mode, True)
    by_rows = BatchPlan(
        replace(
            spec,
            global_batch_tokens=None,
            pack_tokens=None,
            length_buckets=False,
            global_batch_size=1,
        ),
        sizes,
    )
    for epoch in (0, 2):
        expected = Counter(pair for batch in epoch_of(by_rows, epoch) for pair in pairs(batch))
        assert Counter(pair for batch in epoch_of(plan(spec), epoch) for pair in pairs(batch)) == expected


@each_mode
@each_mixing
@pytest.mark.parametrize("seed", grids.first(3, range(10)))
def test_batches_are_well_formed(mode: str, weighted: bool, seed: int) -> None:
    spec = some_spec(seed, mode, weighted)
    batches = epoch_of(plan(spec), 0)
    for number, batch in enumerate(batches):
        assert batch.shards.dtype == batch.rows.dtype == batch.ends.dtype == np.int64
        assert batch.real == len(batch.shards) == len(batch.rows) == batch.ends[-1]
        assert batch.sequences == len(batch.ends)
        assert np.diff(batch.ends, prepend=0).min() >= 1
        if spec.pack_tokens is None:
            assert batch.sequences == batch.real
        else:
            held = np.diff(batch.ends, prepend=0)
            assert all(load <= 20 or rows == 1 for load, rows in zip(tokens(batch), held, strict=True))
        if spec.global_batch_size is not None:
            last = number == len(batches) - 1
            assert (
                batch.sequences <= spec.global_batch_size
                if last
                else batch.sequences == spec.global_batch_size
            )
        else:
            assert sum(tokens(batch)) <= 50 or batch.sequences == 1


@each_mode
@each_mixing
@pytest.mark.parametrize("seed", grids.first(3, range(10)))
def test_a_step_found_directly_equals_the_step_found_by_walking(
    mode: str, weighted: bool, seed: int, tmp_path: Path
) -> None:
    """Steps are the same from a new plan, from one that dropped them from memory, and from files."""
    spec = some_spec(seed, mode, weighted)
    walking = plan(spec)
    walked = [walking.batch(step) for step in range(walking.steps(3))]
    steps = list(range(len(walked)))
    random.Random(0).shuffle(steps)
    kept = BatchPlan(spec, sizes, tmp_path)
    for step in steps[:40]:
        same(plan(spec).batch(step), walked[step])
        same(kept.batch(step), walked[step])
        same(walking.batch(step), walked[step])
        same(BatchPlan(spec, sizes, tmp_path).batch(step), walked[step])


@each_mode
@each_mixing
@pytest.mark.parametrize("seed", grids.first(3, range(8)))
def test_no_shard_is_asked_for_before_its_window(mode: str, weighted: bool, seed: int) -> None:
    """Provide sizes only for the shards that the plan itself named for this step and the next window."""
    spec = some_spec(seed, mode, weighted)
    if (
        mode == "packed"
    ):  # a batch of more sequences may need more windows than two, where windows are this small
        spec = replace(spec, global_batch_size=1)
    written: set[int] = set()

    def so_far(shard: int) -> np.ndarray:
        assert shard in written, "a shard of a later window"
        return sizes(shard)

    early, late = BatchPlan(spec, so_far), plan(spec)
    for step in range(late.steps(1)):
        written |= set(early.upcoming(step))
        batch = early.batch(step)
        same(batch, late.batch(step))
        assert early.epoch(step) == late.epoch(step)
        if spec.pack_tokens is None:
            assert set(batch.shards.tolist()) <= set(early.upcoming(step))


def test_upcoming_shards_are_those_of_this_window_and_the_next() -> None:
    spec = PlanSpec(
        corpora=(Corpus(tuple(range(10, 16)), (4,) * 6),), seed=0, window_shards=2, global_batch_size=4
    )
    found = plan(spec)
    order = found.shard_order().tolist()
    assert sorted(order) == list(range(10, 16))
    assert [set(found.upcoming(step)) for step in (0, 1)] == [set(order[:4])] * 2
    assert [set(found.upcoming(step)) for step in (2, 3)] == [set(order[2:])] * 2
    second = [shard for step in (6, 7) for shard in found.batch(step).shards.tolist()]
    assert [set(found.upcoming(step)) for step in (4, 5)] == [set(order[4:]) | set(second)] * 2
    assert [set(BatchPlan(replace(spec, pack_tokens=20), sizes).upcoming(0))] == [set(order[:4])]


@each_mode
@each_mixing
@pytest.mark.parametrize("seed", grids.first(3, range(10)))
def test_steps_of_parts_of_epochs(mode: str, weighted: bool, seed: int) -> None:
    spec = some_spec(seed, mode, weighted)
    found = plan(spec)
    ends = [0, *(found.steps(epochs) for epochs in (1, 2, 3))]
    for epoch in range(3):
        size = ends[epoch + 1] - ends[epoch]
        assert found.epoch(ends[epoch]) == pytest.approx(epoch)
        assert found.batch(ends[epoch]).epoch == epoch
        for part in ("0.1", "0.3", "0.5", "0.99"):
            assert found.steps(epoch + float(part)) == ends[epoch] + ceil(Fraction(part) * size)
    progress = [found.epoch(step) for step in range(ends[-1] + 1)]
    assert progress == sorted(progress)
    if mode not in SIZED:
        rows = spec.global_batch_size or 1
        assert len(set(np.diff(ends))) == 1
        assert not found.needs_sizes
        assert weighted or ends[1] == ceil(sum(sum(corpus.rows) for corpus in spec.corpora) / rows)
        assert BatchPlan(spec, never).steps(2.5) == found.steps(2.5)


def never(shard: int) -> np.ndarray:
    raise AssertionError("nobody needs sizes here")


def test_a_plan_of_rows_asks_for_no_sizes() -> None:
    for weighted in (False, True):
        found = BatchPlan(some_spec(3, "rows", weighted), never)
        assert found.batch(1000).real
        assert found.upcoming(1000)
        assert found.epoch(1000) > 1


def test_parts_of_epochs_count_as_written() -> None:
    found = plan(PlanSpec(corpora=(Corpus((0,), (30,)),), seed=0, window_shards=1, global_batch_size=1))
    assert found.steps(0.1) == 3, "though 0.1 * 30 is above 3 in floating point"
    with pytest.raises(ValueError, match="a number above 0"):
        found.steps(0)


@each_mode
def test_repeats_are_passes_over_each_corpus(mode: str) -> None:
    corpora = (Corpus((0, 1), (12, 12), 3.0), Corpus((2,), (12,), 1.0), Corpus((3,), (2,), 1.0))
    found = plan(PlanSpec(corpora=corpora, seed=0, window_shards=2, **MODES[mode]))
    # The third is used up first: picks at 2.5 and 7.5 of a time in which a step is one pick.
    steps = found.steps(4)
    counts = Counter(shard for step in range(steps) for shard in found.batch(step).shards.tolist())
    expected = {0: (counts[0] + counts[1]) / 24, 1: counts[2] / 12, 2: counts[3] / 2}
    assert found.repeats(steps) == pytest.approx(expected)
    pool = plan(
        PlanSpec(
            corpora=tuple(replace(c, weight=None) for c in corpora), seed=0, window_shards=2, **MODES[mode]
        )
    )
    assert pool.repeats(pool.steps(2)) == {0: 2.0, 1: 2.0, 2: 2.0}


def test_a_late_step_of_a_large_corpus_is_found_directly() -> None:
    """Step 10^9 over ten million rows is found far faster than a walk over one epoch."""
    for weight in (None, 1.0):
        corpus = Corpus(tuple(range(5000)), (2048,) * 5000, weight)
        found = BatchPlan(PlanSpec(corpora=(corpus,), seed=0, window_shards=8, global_batch_size=64), never)
        batch = found.batch(10**9)
        assert batch.epoch == 10**9 // found.steps(1)
        assert len(set(pairs(batch))) == 64


@each_mode
def test_the_rows_of_a_step_are_the_same_for_any_number_of_workers(mode: str) -> None:
    """The plan does not depend on workers: the sequences of a batch fill the slots of any layout, each once."""
    found = plan(some_spec(5, mode, False))
    for step in range(found.steps(1)):
        batch = found.batch(step)
        for world, micro in ((1, 8), (2, 2), (4, 1), (3, 2)):
            slots = -(-batch.sequences // (world * micro)) * world * micro
            parts = [part for rank in range(world) for part in rank_slots(slots, world, micro, rank)]
            computed = sorted(slot for part in parts for slot in part if slot < batch.sequences)
            assert computed == list(range(batch.sequences))


def test_no_rows_make_no_steps() -> None:
    for mode in MODES.values():
        empty = plan(PlanSpec(corpora=(Corpus((0,), (0,)),), seed=0, window_shards=1, **mode))
        assert empty.shard_order().tolist() == [0]
        for ask in (empty.steps, empty.batch, empty.epoch):
            with pytest.raises(ValueError, match="has 0 training rows"):
                ask(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"global_batch_size": None}, "global_batch_size and global_batch_tokens"),
        ({"global_batch_tokens": 8}, "needs exactly one of"),
        ({"pack_tokens": 8, "length_buckets": True}, "have about the same length"),
        ({"window_shards": 0}, "at least 1"),
        ({"corpora": (Corpus((0,), (1,), 1.0), Corpus((1,), (1,)))}, "or none must have a weight"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(wrong: dict[str, object], message: str) -> None:
    sound = PlanSpec(corpora=(Corpus((0,), (4,)),), seed=0, window_shards=1, global_batch_size=2)
    with pytest.raises(ValueError, match=message):
        replace(sound, **wrong)  # type: ignore[arg-type]
