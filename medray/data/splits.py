"""Which rows a published recipe trains on: subsample, held-out part and the permutation of SVAMP, as row numbers.

The order of operations is load, attach the teacher, subsample the training rows with the run's seed, hold out a
validation part with seed 0, replace labels. The row numbers are those that `datasets` draws (Distilling Step-by-Step,
Hsieh et al. 2023, published code), so a run sees the rows of the published one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medray.errors import InputError

HOLD_OUT_SHARE, HOLD_OUT_SEED = 0.1, 0
SVAMP_TRAIN_ROWS = 800


def subsample(count: int, share: float, seed: int) -> np.ndarray:
    """Numbers of the rows that are kept of `count`, int64 [kept], in the order in which `datasets` hands them out.

    Raises InputError where no row would be left.
    """
    if share >= 1 or count == 0:
        return np.arange(count)
    return _numbers(_cut(count, 1 - share, seed)["train"])


def holdout(
    count: int, share: float = HOLD_OUT_SHARE, seed: int = HOLD_OUT_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): numbers of the rows of each part, int64. Raises InputError where a part would be empty."""
    if share <= 0 or count == 0:
        return np.arange(count), np.arange(0)
    parts = _cut(count, share, seed)
    return _numbers(parts["train"]), _numbers(parts["test"])


def svamp_permutation(count: int = 1000) -> np.ndarray:
    """The order of SVAMP.json's rows, int64 [count]: the first 800 are the training split, the rest the test split."""
    return np.random.RandomState(0).permutation(count)


def _cut(count: int, test_share: float, seed: int) -> Any:
    from datasets import Dataset

    table = Dataset.from_dict({"row": np.arange(count)})
    try:
        return table.train_test_split(test_size=test_share, seed=seed, keep_in_memory=True)
    except ValueError:
        raise InputError(
            f"a share of {test_share:g} of {count} rows leaves one of the two parts empty",
            mend="choose another share, or give a validation file",
        ) from None


def _numbers(table: Any) -> np.ndarray:
    return np.asarray(table.with_format("numpy")["row"][:], dtype=np.int64)
