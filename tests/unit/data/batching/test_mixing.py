"""Mixing by weight gives exact proportions at every prefix, separate passes, and positions that are found directly."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import grids
import numpy as np
import pytest

from medray.data.batching.mixing import Mixture, Shares
from medray.data.batching.plan_spec import Corpus
from medray.errors import InputError

WEIGHTS = [
    (1.0,),
    (0.7, 0.2, 0.1),
    (1, 1, 1),
    (3.0, 1.0),
    (0.5, 0.25, 0.125, 0.125),
    (0.9, *(0.01,) * 10),
    (1e-7, 1.0, 0.123456789),
    (0.1 + 0.2, 1 / 3, 2.5e3),
]
each_weighing = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


def walked(weights: tuple[float, ...], picks: int) -> list[int]:
    """Return the corpora of the first picks in order: the next pick is the one with the smallest (k + 1/2) / w."""
    shares, counts, found = [Fraction(repr(float(weight))) for weight in weights], [0] * len(weights), []
    for _ in range(picks):
        number = min(range(len(weights)), key=lambda c: (Fraction(2 * counts[c] + 1) / shares[c], c))
        counts[number] += 1
        found.append(number)
    return found


@each_weighing
def test_picks_are_those_of_the_definition(weights: tuple[float, ...]) -> None:
    shares, picks = Shares(weights), walked(weights, 600)
    for prefix in range(601):
        held = Counter(picks[:prefix])
        assert shares.counts(prefix) == [held[c] for c in range(len(weights))]
    for corpus in range(len(weights)):
        places = [place for place, pick in enumerate(picks) if pick == corpus]
        assert shares.places(corpus, 0, len(places)).tolist() == places
        assert shares.places(corpus, 2, len(places)).tolist() == places[2:]


@each_weighing
@pytest.mark.parametrize("start", [0, 10**6, 10**9, 10**15])
def test_every_prefix_has_the_exact_proportions(weights: tuple[float, ...], start: int) -> None:
    shares = Shares(weights)
    parts = [Fraction(repr(float(weight))) for weight in weights]
    for picks in range(start, start + 200):
        counts = shares.counts(picks)
        assert sum(counts) == picks
        for count, part in zip(counts, parts, strict=True):
            share = part / sum(parts)
            bound = Fraction(1, 2) + share * max(len(weights) - 2, 0) / 2
            assert abs(count - picks * share) <= bound
            assert bound < 1 or len(weights) > 3


@each_weighing
@pytest.mark.parametrize("start", [10**9, 10**15])
def test_late_positions_agree_with_late_counts(weights: tuple[float, ...], start: int) -> None:
    shares = Shares(weights)
    before, after = shares.counts(start), shares.counts(start + 300)
    places = [shares.places(c, a, b).tolist() for c, (a, b) in enumerate(zip(before, after, strict=True))]
    assert sorted(place for part in places for place in part) == list(range(start, start + 300))


def test_weights_count_as_written_and_only_relative_to_each_other() -> None:
    assert Shares((0.7, 0.2, 0.1)).counts(10**9) == [7 * 10**8, 2 * 10**8, 10**8]
    assert Shares((7, 2, 1)).counts(12345) == Shares((0.7, 0.2, 0.1)).counts(12345)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Shares((1.0, weight))


def some_corpora(seed: int) -> list[Corpus]:
    draw = random.Random(seed)
    found, first = [], 0
    for _ in range(draw.randint(1, 4)):
        rows = (*(draw.randint(0, 6) for _ in range(draw.randint(1, 8))), draw.randint(1, 5))
        shards = tuple(range(first, first + len(rows)))
        found.append(Corpus(shards, rows, draw.choice([1, 0.3, 2.5, 0.01, 10])))
        first += len(rows)
    return found


def pairs(mixture: Mixture, first: int, last: int) -> list[tuple[int, int]]:
    return [(shard, row) for shard, row in mixture.take(first, last).tolist()]


@pytest.mark.parametrize("seed", grids.first(8, range(40)))
def test_each_corpus_goes_through_all_its_rows_pass_by_pass(seed: int) -> None:
    corpora = some_corpora(seed)
    mixture = Mixture(corpora, seed, 2)
    taken = pairs(mixture, 0, 1200)
    sequence = [c for shard, _ in taken for c, corpus in enumerate(corpora) if shard in corpus.shards]
    assert sequence == walked(tuple(corpus.weight or 0 for corpus in corpora), 1200)
    for number, corpus in enumerate(corpora):
        own = [pair for pair, c in zip(taken, sequence, strict=True) if c == number]
        size, rows = sum(corpus.rows), set(zip(corpus.shards, corpus.rows, strict=True))
        whole = Counter((shard, row) for shard, count in rows for row in range(count))
        passes = [own[first : first + size] for first in range(0, len(own) - size + 1, size)]
        assert all(Counter(part) == whole for part in passes)
        if size > 12:
            assert len({tuple(part) for part in passes}) == len(passes), "each pass has a fresh permutation"


@pytest.mark.parametrize("seed", grids.first(8, range(40)))
def test_an_epoch_ends_when_the_first_corpus_is_used_up(seed: int) -> None:
    corpora = some_corpora(seed)
    mixture = Mixture(corpora, seed, 3)
    left = [sum(corpus.rows) for corpus in corpora]
    for picks, corpus in enumerate(walked(tuple(c.weight or 0 for c in corpora), mixture.length), 1):
        left[corpus] -= 1
        assert (min(left) == 0) == (picks == mixture.length)
    assert max(mixture.passes(mixture.length)) >= 1


@pytest.mark.parametrize("seed", grids.first(8, range(40)))
def test_any_part_equals_a_walk_and_names_its_shards(seed: int) -> None:
    mixture, draw = Mixture(some_corpora(seed), seed, 2), random.Random(seed)
    all_pairs = pairs(mixture, 0, 500)
    for _ in range(20):
        first, last = sorted(draw.choices(range(501), k=2))
        assert pairs(mixture, first, last) == all_pairs[first:last]
        assert {shard for shard, _ in all_pairs[first:last]} <= set(mixture.shards(first, last))


@pytest.mark.parametrize("seed", grids.first(8, range(40)))
def test_shards_come_in_the_order_of_first_need(seed: int) -> None:
    corpora = some_corpora(seed)
    mixture = Mixture(corpora, seed, 1)
    order = mixture.shard_order().tolist()
    assert sorted(order) == [shard for corpus in corpora for shard in corpus.shards]
    rows = {s: n for corpus in corpora for s, n in zip(corpus.shards, corpus.rows, strict=True)}
    longest = max(sum(corpus.rows) for corpus in corpora)
    first_use: dict[int, int] = {}
    position = 0
    while len(first_use) < sum(1 for count in rows.values() if count) and position < 2000 * longest:
        for place, (shard, _) in enumerate(pairs(mixture, position, position + 2000), position):
            first_use.setdefault(shard, place)
        position += 2000
    used = [shard for shard in order if shard in first_use]
    assert used == sorted(used, key=first_use.__getitem__)


def test_windows_have_as_many_rows_as_the_largest_shards() -> None:
    mixture = Mixture([Corpus((0, 1, 2), (50, 50, 20), 3), Corpus((3,), (1000,), 1)], 0, 2)
    assert mixture.length == 160, "pick 119 of the first corpus; the second has given 40 of its 1000 by then"
    assert mixture.starts(0).tolist() == [0, 160]
    assert Mixture([Corpus((0, 1, 2), (5, 5, 2), 3)], 0, 2).starts(5).tolist() == [0, 10, 12]


def test_a_late_part_is_found_directly() -> None:
    corpora = [Corpus(tuple(range(100)), (2000,) * 100, 0.7), Corpus((100,), (2000,), 0.3)]
    taken = Mixture(corpora, 0, 8).take(10**12, 10**12 + 64)
    assert Counter((taken[:, 0] == 100).tolist())[True] in (19, 20)
    assert len(np.unique(taken, axis=0)) == 64


def test_a_corpus_without_rows_cannot_be_mixed() -> None:
    with pytest.raises(InputError, match="corpus 2 of 2 has a weight but no rows"):
        Mixture([Corpus((0,), (3,), 1.0), Corpus((1,), (0,), 1.0)], 0, 2)
