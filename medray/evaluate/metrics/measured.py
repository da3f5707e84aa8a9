"""The result of a metric: statistics of each row, and how sums of them become numbers.

A metric over a corpus is a function of sums over its rows: a mean is (sum of values) / (number of rows), a micro F1 is
2 hits / (found + wanted), BLEU is a function of summed n-gram counts. So a resample of the rows needs only other sums,
which one matrix product computes for all metrics, and a row's own value is the function of that row's statistics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medray.data.printable import is_type_name

OTHER = "(other)"  # the class of names that are not shown

Numbers = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The counts of one class, such as a label or an entity type. wanted: in references. predicted: in predictions."""

    wanted: int
    predicted: int
    hits: int

    @property
    def precision(self) -> float:
        return self.hits / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.hits / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        both = self.wanted + self.predicted
        return 2 * self.hits / both if both else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A metric over some rows.

    statistics: float64 [rows, columns]. numbers: sums of the columns [..., columns] → the metric's numbers, each [...]; NaN
    where a denominator is 0, which counts as 0 over several rows. digits: decimals of the numbers; None: all. classes:
    counts by class; empty without classes. notes: sentences about how the rows were compared.
    """

    statistics: np.ndarray
    numbers: Callable[[np.ndarray], Numbers]
    digits: int | None = None
    classes: Mapping[str, ClassCounts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def values(self, *, exact: bool = False) -> dict[str, float]:
        """Return the numbers over all rows. Sums are exact, so the order of the rows does not matter. exact: all decimals."""
        sums = np.array([math.fsum(column) for column in self.statistics.T.tolist()])
        found = {name: float(np.nan_to_num(value)) for name, value in self.numbers(sums).items()}
        return found if exact or self.digits is None else {n: round(v, self.digits) for n, v in found.items()}

    def row_values(self) -> list[dict[str, float | None]]:
        """Return the numbers of each row alone; None where a row does not count, such as the precision of no items."""
        found = {name: value.tolist() for name, value in self.numbers(self.statistics).items()}
        return [
            {name: None if math.isnan(column[row]) else column[row] for name, column in found.items()}
            for row in range(len(self.statistics))
        ]


def typed_classes(
    wanted: Counter[str], predicted: Counter[str], hits: Counter[str]
) -> dict[str, ClassCounts]:
    """Return the counts of each type of the references. A type that looks like text of a record has no name: OTHER."""
    sides: list[Counter[str]] = []
    for side in (wanted, predicted, hits):
        named = Counter[str]()
        for kind in wanted:
            named[(kind if is_type_name(kind) else OTHER) if kind else "(no type)"] += side[kind]
        sides.append(named)
    return {kind: ClassCounts(*(side[kind] for side in sides)) for kind in sorted(sides[0])}


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, and NaN where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    nothing = np.full(np.broadcast(part, whole).shape, np.nan)
    quotient: np.ndarray = np.divide(part, whole, out=nothing, where=whole != 0)
    return quotient


def mean(
    names: Sequence[str], values: np.ndarray | Sequence[Sequence[float]], *, scale: float = 1
) -> Measured:
    """Return the metric whose numbers are means over rows. values: [rows, names]."""
    made = np.asarray(values, np.float64).reshape(-1, len(names))
    return Measured(
        statistics=np.column_stack([made, np.ones(len(made))]),
        numbers=lambda sums: {
            name: scale * ratio(sums[..., place], sums[..., -1]) for place, name in enumerate(names)
        },
    )


def micro_f1(
    prefix: str,
    counts: np.ndarray | Sequence[Sequence[float]],
    *,
    classes: Mapping[str, ClassCounts] | None = None,
) -> Measured:
    """Return precision, recall and F1 of summed counts. counts: [rows, 3], the hits, the predicted and the wanted items."""

    def numbers(sums: np.ndarray) -> Numbers:
        hits, predicted, wanted = (sums[..., place] for place in range(3))
        return {
            f"{prefix}_precision": ratio(hits, predicted),
            f"{prefix}_recall": ratio(hits, wanted),
            f"{prefix}_f1": ratio(2 * hits, predicted + wanted),
        }

    made = np.asarray(counts, np.float64).reshape(-1, 3)
    return Measured(statistics=made, numbers=numbers, classes=classes or {})
