"""Best fit and cuts by tokens equal slow calculations that follow the definitions literally."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from medray.data.batching.packing import best_fit, cut_by_tokens


def lognormal(rows: int, seed: int) -> np.ndarray:
    """Return sizes with a mean near 500, cut at 2048, like clinical dialogues."""
    draw = np.random.default_rng(seed).lognormal(np.log(500) - 0.245, 0.7, rows)
    return np.clip(draw, 1, 2048).astype(np.int32)


def some_sizes(seed: int) -> tuple[np.ndarray, int]:
    """Return (sizes, capacity), sometimes with rows without tokens and rows above the capacity."""
    draw = random.Random(seed)
    capacity = draw.choice([1, 2, 7, 16, 64, 500])
    most = draw.choice([capacity, capacity // 2 + 1, capacity + 3])
    rows = draw.choice([1, 2, 5, 30, 200])
    return np.array([draw.randint(draw.choice([0, 1]), most) for _ in range(rows)], np.int32), capacity


def naive_loads(sizes: list[int], capacity: int) -> list[int]:
    """Compute best fit decreasing by its definition, without rows of no tokens."""
    loads: list[int] = []
    for size in sorted((size for size in sizes if size), reverse=True):
        fitting = [number for number, load in enumerate(loads) if load + size <= capacity]
        if fitting:
            loads[max(fitting, key=lambda number: loads[number])] += size
        else:
            loads.append(size)
    return sorted(loads)


def loads_of(sizes: np.ndarray, numbers: np.ndarray) -> list[int]:
    loads: list[int] = np.bincount(numbers, weights=sizes).astype(int).tolist()
    return loads


@pytest.mark.parametrize("seed", range(150))
def test_best_fit_makes_the_sequences_of_the_definition(seed: int) -> None:
    sizes, capacity = some_sizes(seed)
    numbers = best_fit(sizes, capacity)
    loads = loads_of(sizes, numbers)
    assert sorted(set(numbers.tolist())) == list(range(len(loads))), "numbered without gaps"
    expected = naive_loads(sizes.tolist(), capacity) or [0]
    held_apart = len(loads) - len(
        expected
    )  # rows of no tokens get one of their own if all others are oversized
    assert sorted(loads) == [0] * held_apart + expected
    assert held_apart == int(min(expected) > capacity and 0 in sizes)


@pytest.mark.parametrize("seed", range(150))
def test_no_sequence_is_overfull_and_an_oversized_row_is_alone(seed: int) -> None:
    sizes, capacity = some_sizes(seed)
    numbers = best_fit(sizes, capacity)
    held = Counter(numbers.tolist())
    for number, load in enumerate(loads_of(sizes, numbers)):
        assert load <= capacity or held[number] == 1


def test_rows_without_tokens_are_spread_evenly() -> None:
    numbers = best_fit(np.array([0] * 40 + [9, 9, 30, 9, 9]), 10)
    held = Counter(numbers[:40].tolist())
    assert sorted(held.values()) == [10] * 4
    assert int(numbers[42]) not in held
    assert best_fit(np.zeros(3, int), 10).tolist() == [0, 0, 0]
    assert best_fit(np.array([], int), 10).tolist() == []


@pytest.mark.parametrize("rows", [1000, 16_000])
def test_long_tailed_lengths_pack_with_at_most_one_percent_padding(rows: int) -> None:
    for seed in range(3):
        sizes = lognormal(rows, seed)
        assert 450 < sizes.mean() < 550
        sequences = int(best_fit(sizes, 2048).max()) + 1
        assert 1 - sizes.sum() / (sequences * 2048) <= 0.01


def fewest(sizes: list[int], limit: int) -> int:
    """Return the fewest batches of consecutive rows with at most `limit` tokens or one row, by trying all cuts."""
    for batches in range(1, len(sizes) + 1):
        for cuts in combinations(range(1, len(sizes)), batches - 1):
            parts = [sizes[a:b] for a, b in zip((0, *cuts), (*cuts, len(sizes)), strict=True)]
            if all(sum(part) <= limit or len(part) == 1 for part in parts):
                return batches
    raise AssertionError


@pytest.mark.parametrize("seed", range(150))
def test_cuts_keep_the_limit_with_as_few_batches_as_possible(seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.choice([1, 5, 20])
    sizes = [
        draw.randint(0, draw.choice([limit // 2 + 1, limit, limit + 4])) for _ in range(draw.randint(1, 9))
    ]
    ends = cut_by_tokens(np.array(sizes), limit).tolist()
    assert ends[-1] == len(sizes)
    parts = [sizes[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert all(parts)
    assert all(sum(part) <= limit or len(part) == 1 for part in parts)
    assert len(parts) == fewest(sizes, limit)


def test_batches_hold_about_equal_tokens() -> None:
    sizes = lognormal(4000, 0)
    ends = cut_by_tokens(sizes, 16_384)
    tokens = np.add.reduceat(sizes, np.concatenate([[0], ends[:-1]]))
    share = sizes.sum() / len(ends)
    assert abs(tokens - share).max() <= 2048, "no batch is further from the mean than the longest row"
    assert share > 0.95 * 16_384
    # A remainder is shared by all: 10 equal rows at 4 a batch are 3, 3 and 4, not 4, 4 and 2.
    assert sorted(np.diff(cut_by_tokens(np.full(10, 5), 20), prepend=0).tolist()) == [3, 3, 4]


def test_no_rows_give_no_batches() -> None:
    assert cut_by_tokens(np.array([], int), 5).tolist() == []
