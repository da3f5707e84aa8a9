"""The bootstrap: resampling by weights equals scoring drawn rows, intervals cover, p-values are those of known cases."""

from __future__ import annotations

import time

import numpy as np
import pytest
import sacrebleu
from scipy import stats

from medray.evaluate.metrics.measured import Measured, mean, micro_f1
from medray.evaluate.metrics.registry import REGISTRY
from medray.evaluate.metrics.rows import Reference, Rows, Settings
from medray.evaluate.scoring.bootstrap import Bootstrap, _by_group, _weights, differences, intervals, units


def of(values: np.ndarray) -> Measured:
    return mean(["x"], values.reshape(-1, 1))


def test_weighted_sums_equal_scores_of_the_drawn_rows() -> None:
    """Compare with sacrebleu over rows that are really repeated."""
    said = ["a b c d e", "f g h i", "k l m n o p", "a a"]
    wanted = ["a b c d x", "f g h j", "k l m n o p", "b b"]
    given = Rows(ids=tuple("1234"), predictions=tuple(said), references=tuple(map(Reference, wanted)))
    measured = REGISTRY["bleu"].measure(given, Settings())
    [weights] = _weights(4, Bootstrap(samples=20))
    assert (weights.sum(axis=1) == 4).all()
    found = measured.numbers(weights @ measured.statistics)["bleu"]
    for drawn, value in zip(weights.astype(int), found, strict=True):
        repeated = np.repeat(np.arange(4), drawn)
        expected = sacrebleu.corpus_bleu([said[n] for n in repeated], [[wanted[n] for n in repeated]]).score
        assert value == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(3, 1, 400)
    [found] = intervals([of(values)], None, Bootstrap(samples=4000))
    half = 1.96 * values.std() / 20
    assert found["x"].low == pytest.approx(values.mean() - half, abs=0.015)
    assert found["x"].high == pytest.approx(values.mean() + half, abs=0.015)


def test_the_same_seed_gives_the_same_interval_and_other_metrics_change_nothing() -> None:
    values = np.random.default_rng(2).random(50)
    one = intervals([of(values)], None, Bootstrap())
    other = intervals([of(values), of(values**2)], None, Bootstrap())
    assert one[0] == other[0]
    assert intervals([of(values)], None, Bootstrap(seed=1)) != one


def test_groups_are_drawn_together() -> None:
    """Rows that repeat within a group carry no more information than one row."""
    values = np.random.default_rng(3).random(40)
    repeated = np.repeat(values, 5)
    groups = [f"document {number}" for number in range(40) for _ in range(5)]
    [single] = intervals([of(values)], None, Bootstrap())
    [grouped] = intervals([of(repeated)], groups, Bootstrap())
    [wrong] = intervals([of(repeated)], None, Bootstrap())
    assert grouped["x"].low == pytest.approx(single["x"].low)
    assert wrong["x"].high - wrong["x"].low < 0.6 * (single["x"].high - single["x"].low)
    assert _by_group(np.ones((4, 1)), ["b", "a", "b", "b"]).tolist() == [[3.0], [1.0]]
    alone = ["b", "", "b", ""]
    assert _by_group(np.ones((4, 1)), alone).tolist() == [[2.0], [1.0], [1.0]]
    assert units(alone, 4) == 3


def test_paired_difference_and_p_are_close_to_a_paired_t_test() -> None:
    draw = np.random.default_rng(4)
    first = draw.normal(0, 1, 300)
    second = first + draw.normal(0.03, 0.3, 300)
    [found] = differences([of(first)], [of(second)], None, Bootstrap(samples=5000))
    assert found["x"].value == pytest.approx(second.mean() - first.mean())
    assert found["x"].p == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=0.02)
    interval = found["x"].interval
    assert interval is not None
    assert interval.low < found["x"].value < interval.high
    [same] = differences([of(first)], [of(first)], None, Bootstrap())
    assert (same["x"].value, same["x"].p) == (0.0, 1.0)
    [clear] = differences([of(first)], [of(first + 1)], None, Bootstrap())
    assert clear["x"].p == pytest.approx(1 / 1001)


def test_one_row_or_no_resamples_give_no_interval() -> None:
    assert intervals([of(np.ones(1))], None, Bootstrap()) == [{}]
    assert intervals([of(np.ones(9))], ["a"] * 9, Bootstrap()) == [{}]
    assert intervals([of(np.ones(9))], None, Bootstrap(samples=0)) == [{}]
    [found] = differences([of(np.ones(9))], [of(np.zeros(9))], None, Bootstrap(samples=0))
    assert (found["x"].value, found["x"].interval, found["x"].p) == (-1.0, None, None)


def test_a_zero_denominator_in_a_resample_counts_as_zero() -> None:
    [found] = intervals([micro_f1("e", [[1, 1, 1], [0, 0, 0]])], None, Bootstrap())
    assert (found["e_f1"].low, found["e_f1"].high) == (0.0, 1.0)


def test_a_thousand_resamples_of_ten_thousand_rows_take_less_than_two_seconds() -> None:
    values = np.random.default_rng(5).random((10_000, 4))
    begun = time.process_time()
    intervals([mean(["a", "b", "c", "d"], values)] * 5, None, Bootstrap())
    assert time.process_time() - begun < 2
