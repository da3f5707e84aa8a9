"""Bootstrap intervals of metrics, and paired comparison of two systems.

Rows are drawn with replacement, as many as there are (Efron 1979); rows of one group, such as the sections of one document,
are drawn together. A metric's statistics of each row are summed with the number of times that the row was drawn, so a
resample costs one row of a matrix product. The interval is that of the percentiles.

Two systems that answered the same rows are compared on the same draws. The p-value is that of Berg-Kirkpatrick et al. 2012,
"An Empirical Investigation of Statistical Significance in NLP", two-sided: the share of resamples whose difference is
further from the observed one than that is from 0, with one added to both counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medray.evaluate.metrics.measured import Measured

CELLS = 4_000_000  # of the matrix of draws that is in memory at once
FEWEST_UNITS = 2
ROUNDING = 1e-9  # of sums in another order


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """The settings of the bootstrap. samples: number of resamples; 0 for no intervals. confidence: such as 0.95."""

    samples: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a number between two systems, second minus first. interval, p: None without a bootstrap."""

    value: float
    interval: Interval | None
    p: float | None


def intervals(
    measured: Sequence[Measured], groups: Sequence[str] | None, settings: Bootstrap
) -> list[dict[str, Interval]]:
    """Return the interval of each number of each metric. Empty dicts if there are too few rows or no resamples."""
    drawn = _drawn(measured, groups, settings)
    if drawn is None:
        return [{} for _ in measured]
    return [
        {name: _interval(values, settings.confidence, each.digits) for name, values in numbers.items()}
        for each, numbers in zip(measured, drawn, strict=True)
    ]


def differences(
    first: Sequence[Measured],
    second: Sequence[Measured],
    groups: Sequence[str] | None,
    settings: Bootstrap,
) -> list[dict[str, Difference]]:
    """Return the differences, second minus first, of the numbers that both have. Both have the same rows in the same order."""
    drawn = _drawn([*first, *second], groups, settings)
    found = []
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        before, after = one.values(exact=True), other.values(exact=True)
        made = {}
        for name in (each for each in before if each in after):
            value = after[name] - before[name]
            interval = p = None
            if drawn is not None:
                moved = drawn[len(first) + place][name] - drawn[place][name]
                interval = _interval(moved, settings.confidence)
                far = int(np.count_nonzero(np.abs(moved - value) >= abs(value) - ROUNDING))
                p = (far + 1) / (len(moved) + 1)
            made[name] = Difference(value, interval, p)
        found.append(made)
    return found


def units(groups: Sequence[str] | None, rows: int) -> int:
    """Return the number of things that are drawn: groups, or rows. A row without a group ("") is drawn alone."""
    return rows if groups is None else len(set(_names(groups)))


def _names(groups: Sequence[str]) -> list[str | int]:
    """Return the group of each row; the row's number where it has none."""
    return [name or row for row, name in enumerate(groups)]


def _interval(values: np.ndarray, confidence: float, digits: int | None = None) -> Interval:
    tail = (1 - confidence) / 2
    bounds = np.quantile(values, [tail, 1 - tail]).tolist()
    low, high = bounds if digits is None else (round(bound, digits) for bound in bounds)
    return Interval(low, high)


def _drawn(
    measured: Sequence[Measured], groups: Sequence[str] | None, settings: Bootstrap
) -> list[dict[str, np.ndarray]] | None:
    """Return the numbers of each metric in each resample [samples]; None if there is nothing to draw."""
    rows = len(measured[0].statistics) if measured else 0
    if not settings.samples or units(groups, rows) < FEWEST_UNITS:
        return None
    widths = [each.statistics.shape[1] for each in measured]
    ends = np.cumsum(widths).tolist()
    whole = _by_group(np.concatenate([each.statistics for each in measured], axis=1), groups)
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in measured]
    for weights in _weights(len(whole), settings):
        sums = weights @ whole
        for place, (each, end, width) in enumerate(zip(measured, ends, widths, strict=True)):
            parts[place].append(each.numbers(sums[:, end - width : end]))
    return [
        {name: np.nan_to_num(np.concatenate([part[name] for part in chunks])) for name in chunks[0]}
        for chunks in parts
    ]


def _by_group(statistics: np.ndarray, groups: Sequence[str] | None) -> np.ndarray:
    """Return the sums of each group [groups, columns], in the order of their first rows; without groups, the rows."""
    if groups is None:
        return statistics
    number: dict[str | int, int] = {}
    place = np.array([number.setdefault(name, len(number)) for name in _names(groups)])
    sums = np.zeros((len(number), statistics.shape[1]))
    np.add.at(sums, place, statistics)
    return sums


def _weights(count: int, settings: Bootstrap) -> Iterator[np.ndarray]:
    """Yield how often each of `count` units is drawn, as float64 [some resamples, count]."""
    generator = np.random.default_rng(settings.seed)
    chunk = max(1, CELLS // count)
    for begin in range(0, settings.samples, chunk):
        size = min(chunk, settings.samples - begin)
        drawn = generator.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
