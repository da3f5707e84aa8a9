"""The number of optimizer steps of a run, and the split of a global batch into workers and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from medray.errors import InputError

MOST_ROWS = 8  # largest default micro-batch, in rows: small enough for a first run on a small GPU


@dataclass(frozen=True)
class BatchSplit:
    """The share of each worker in a global batch: the number of its micro-batches and their rows.

    slots: rows of all workers in one step, at least the global batch; rows beyond it have no weight.
    """

    micro_batch_size: int
    gradient_accumulation_steps: int
    slots: int


def total_steps(
    rows: int | None, global_batch_size: int, epochs: float = 1.0, max_steps: int | None = None
) -> int:
    """Return the optimizer steps of a run: `max_steps`, else epochs * ceil(rows / global_batch_size) rounded up.

    The last batch of an epoch may be smaller, so 2 epochs of 9 rows in batches of 4 are 6 steps. rows may be None while
    they are not counted, if `max_steps` is given.

    Raises ValueError for a run without steps.
    """
    if global_batch_size < 1:
        raise ValueError(f"a global batch of {global_batch_size} rows: must be at least 1")
    if rows is not None and rows < 1:
        raise ValueError(f"{rows} training rows: there is nothing to train on")
    if max_steps is not None:
        if max_steps < 1:
            raise ValueError(f"train.max_steps: {max_steps} steps train nothing; use at least 1")
        return max_steps
    if rows is None:
        raise ValueError("the number of training rows is not known yet; set train.max_steps")
    if not epochs > 0:
        raise ValueError(f"train.epochs: {epochs:g} epochs train nothing; use more than 0")
    # Decimal arithmetic: 0.1 epochs of 30 steps are 3, although 0.1 * 30 is above 3 in floating point.
    return ceil(Fraction(repr(float(epochs))) * ceil(Fraction(rows, global_batch_size)))


def split_batch(
    global_batch_size: int,
    world_size: int,
    micro_batch_size: int | None = None,
    gradient_accumulation_steps: int | None = None,
) -> BatchSplit:
    """Split `global_batch_size` rows over workers, with as few empty slots as the given values allow.

    By default, use the largest micro-batch of at most 8 rows that adds no padding beyond what the number of workers
    requires, and the accumulation that follows. If one value is given, the other is the smallest that holds the batch.

    Raises InputError if the given values hold less than the batch, or so much more that one micro-batch, or one row of
    every micro-batch, would be empty on every worker: then the numbers contradict each other. Raises ValueError for
    numbers below 1.
    """
    if global_batch_size < 1 or world_size < 1:
        raise ValueError(
            f"a global batch of {global_batch_size} rows on {world_size} workers: each must be at least 1"
        )
    given = {"micro_batch_size": micro_batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"train.{name}: {value}: must be at least 1")
    share = -(-global_batch_size // world_size)  # rows of the worker with the most rows
    micro, accumulation = micro_batch_size, gradient_accumulation_steps
    if micro is None and accumulation is not None:
        micro = -(-share // accumulation)
    elif micro is None:
        micro = max(size for size in range(1, min(share, MOST_ROWS) + 1) if share % size == 0)
    if accumulation is None:
        accumulation = -(-share // micro)
    # A micro-batch that was given alone is an upper bound, so empty rows in the last of several micro-batches are not a
    # contradiction.
    bound = gradient_accumulation_steps is None and accumulation > 1
    if not _tight(share, micro, accumulation, rows_may_spare=bound):
        raise _contradiction(global_batch_size, world_size, micro, accumulation)
    return BatchSplit(micro, accumulation, world_size * micro * accumulation)


def _tight(share: int, micro: int, accumulation: int, *, rows_may_spare: bool = False) -> bool:
    """Return whether the micro-batches hold `share` rows, but one fewer, or one row less in each, would not."""
    spare_row = (micro - 1) * accumulation >= share and not rows_may_spare
    return micro * accumulation >= share > micro * (accumulation - 1) and not spare_row


def _contradiction(batch: int, workers: int, micro: int, accumulation: int) -> InputError:
    share, slots = -(-batch // workers), workers * micro * accumulation
    smaller, fewer = -(-share // accumulation), -(-share // micro)
    ways = []
    if _tight(share, smaller, accumulation):
        ways.append(f"train.micro_batch_size: {smaller}")
    if _tight(share, micro, fewer):
        ways.append(f"train.gradient_accumulation_steps: {fewer}")
    return InputError(
        f"{workers} workers x micro_batch_size {micro} x gradient_accumulation_steps {accumulation} hold {slots} rows, "
        f"{'less' if slots < batch else 'more'} than the global_batch_size of {batch} needs",
        key="train.global_batch_size",
        value=batch,
        fix="remove both" + (f", or set {' or '.join(ways)}" if ways else ""),
    )
