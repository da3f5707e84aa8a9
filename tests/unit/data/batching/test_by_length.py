import itertools

import numpy as np

from medray.data.batching.order import RUN_ROWS, by_length


def test_rows_come_longest_first_and_equal_ones_keep_their_order() -> None:
    assert by_length(np.array([3, 9, 3, 5])).tolist() == [1, 3, 0, 2]


def test_rows_of_similar_totals_are_ordered_by_their_source() -> None:
    draw = np.random.default_rng(0)
    totals, sources = draw.integers(100, 500, 300), draw.integers(1, 60, 300)
    order = by_length(totals, sources)
    assert sorted(order.tolist()) == list(range(300))
    runs = [order[first : first + RUN_ROWS] for first in range(0, 300, RUN_ROWS)]
    for run, later in itertools.pairwise(runs):
        assert totals[run].min() >= totals[later].max()
    assert all((np.diff(sources[run]) <= 0).all() for run in runs)


def test_both_sides_of_an_encoder_decoder_are_padded_less() -> None:
    draw = np.random.default_rng(1)
    sources, targets = draw.integers(4, 60, 1024), draw.integers(50, 500, 1024)

    def places(order: np.ndarray) -> int:
        return sum(int(part[order].reshape(-1, 8).max(axis=1).sum()) for part in (sources, targets))

    assert places(by_length(sources + targets, sources)) < 0.97 * places(by_length(sources + targets))
