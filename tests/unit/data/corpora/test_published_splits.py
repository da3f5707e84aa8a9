"""Row numbers of published splits equal those that `datasets` and numpy draw."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from medray.data.corpora.published import holdout, subsample, svamp_permutation
from medray.errors import InputError


@pytest.mark.parametrize(("count", "share", "seed"), [(100, 0.5, 0), (801, 0.2, 3), (7, 0.75, 1)])
def test_subsample_keeps_the_rows_and_order_of_datasets(count: int, share: float, seed: int) -> None:
    table = datasets.Dataset.from_dict({"name": [f"row {number}" for number in range(count)]})
    kept = table.train_test_split(test_size=1 - share, seed=seed)["train"]["name"][:]
    assert [f"row {number}" for number in subsample(count, share, seed)] == kept


def test_a_whole_share_keeps_every_row_in_place() -> None:
    assert subsample(5, 1.0, 7).tolist() == [0, 1, 2, 3, 4]


def test_holdout_is_a_tenth_with_seed_0() -> None:
    table = datasets.Dataset.from_dict({"name": [f"row {number}" for number in range(800)]})
    parts = table.train_test_split(test_size=0.1, seed=0)
    train, validation = holdout(800)
    assert [f"row {number}" for number in train] == parts["train"]["name"][:]
    assert [f"row {number}" for number in validation] == parts["test"]["name"][:]
    assert len(validation) == 80
    assert sorted([*train, *validation]) == list(range(800))


def test_the_validation_cut_is_of_the_subsample() -> None:
    """The order of a published run: subsample with its seed, then hold out with seed 0."""
    table = datasets.Dataset.from_dict({"row": list(range(200))})
    kept = table.train_test_split(test_size=1 - 0.6, seed=2)["train"]
    wanted = kept.train_test_split(test_size=0.1, seed=0)["test"]["row"][:]
    rows = subsample(200, 0.6, 2)
    assert rows[holdout(len(rows))[1]].tolist() == wanted


def test_no_rows_are_allowed_but_an_empty_part_is_an_error() -> None:
    assert len(subsample(0, 0.5, 0)) == 0
    assert [len(part) for part in holdout(0)] == [0, 0]
    with pytest.raises(InputError, match=r"0\.1 of 1 rows"):
        holdout(1)


def test_the_permutation_of_svamp() -> None:
    drawn = np.random.RandomState(0).permutation(1000)
    assert svamp_permutation().tolist() == drawn.tolist()
    assert drawn[:3].tolist() == [993, 859, 298]  # as numpy has drawn since its first release
