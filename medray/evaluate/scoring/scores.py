"""Scores of one file of answers and the comparison of two: metrics with intervals, notes and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medray.errors import InputError
from medray.evaluate.metrics.measured import ClassCounts, Measured
from medray.evaluate.metrics.registry import ENTITIES, OPTIONS, PREDICTIONS, REFERENCES, REGISTRY, metric
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.scoring.answer_files import Answers, common
from medray.evaluate.scoring.bootstrap import (
    Bootstrap,
    Difference,
    Interval,
    differences,
    intervals,
    units,
)
from medray.evaluate.scoring.collapse import warnings


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a metric. interval: None without a bootstrap."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileScores:
    """The scores of one file.

    metrics: metric → its numbers. classes: metric → class → counts. rows: those of the scores. drawn: number of rows or
    groups that the bootstrap draws from. row_values: metric → numbers of each row. warnings: as in `collapse.warnings`.
    """

    label: str
    rows: int
    drawn: int
    metrics: dict[str, dict[str, Number]]
    classes: dict[str, Mapping[str, ClassCounts]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    row_values: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, Number]:
        """Return all numbers by name."""
        return {name: number for numbers in self.metrics.values() for name, number in numbers.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The second file against the first, over the rows that both have."""

    first: FileScores
    second: FileScores
    differences: dict[str, Difference]
    notes: tuple[str, ...] = ()


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of known metrics, each once. Raises InputError for an unknown or a refused one."""
    for name in names:
        try:
            metric(name)
        except MetricError as error:
            raise InputError(error.what, key="--metrics", fix=error.fix) from None
    return tuple(dict.fromkeys(names))


class Scorer:
    """Computes metrics of files with the same settings. The metrics of the same rows are computed once."""

    def __init__(self, metrics: Sequence[str], settings: Settings, bootstrap: Bootstrap) -> None:
        self._metrics, self._settings, self._bootstrap = metrics, settings, bootstrap
        self._known: list[tuple[Rows, dict[str, Measured]]] = []

    def scores(self, answers: Answers, *, by_row: bool = False) -> FileScores:
        """Return the scores of one file. by_row: also the numbers of each row.

        Raises InputError if a metric lacks a column or cannot compare these rows.
        """
        measured, rows = self._measured(answers), answers.rows
        found = intervals(list(measured.values()), rows.groups, self._bootstrap)
        return FileScores(
            label=answers.label,
            rows=len(rows),
            drawn=units(rows.groups, len(rows)),
            metrics={
                name: {number: Number(value, bounds.get(number)) for number, value in each.values().items()}
                for (name, each), bounds in zip(measured.items(), found, strict=True)
            },
            classes={name: each.classes for name, each in measured.items() if each.classes},
            notes=(*answers.notes, *(note for each in measured.values() for note in each.notes)),
            warnings=tuple(warnings(answers.evidence())),
            row_values={name: each.row_values() for name, each in measured.items()} if by_row else {},
        )

    def compare(self, first: Answers, second: Answers) -> Comparison:
        """Return the differences between two files over their common rows, second minus first."""
        one, other = common(first, second)
        notes = []
        for whole, part in ((first, one), (second, other)):
            if left := len(whole.rows) - len(part.rows):
                notes.append(f"{left} rows of {whole.label} are not in the other file and are left out")
        if not first.has_ids:
            notes.append("the files have no ids: their rows are joined by number")
        wanted = [each.rows.references for each in (one, other)]
        if wanted[0] is not None and wanted[1] is not None:
            pairs = zip(wanted[0], wanted[1], strict=True)
            if differing := sum(a.text.strip() != b.text.strip() for a, b in pairs):
                notes.append(
                    f"the references of {differing} of {len(one.rows)} common rows differ between the files"
                )
        found = differences(
            list(self._measured(one).values()),
            list(self._measured(other).values()),
            one.rows.groups or other.rows.groups,
            self._bootstrap,
        )
        return Comparison(
            first=self.scores(one),
            second=self.scores(other),
            differences={name: value for each in found for name, value in each.items()},
            notes=tuple(notes),
        )

    def _measured(self, answers: Answers) -> dict[str, Measured]:
        for rows, measured in self._known:
            if rows is answers.rows:
                return measured
        found = {}
        for name in self._metrics:
            for need in REGISTRY[name].needs:
                if not _has(answers.rows, need):
                    raise _lacking(answers.label, name, need)
            try:
                found[name] = REGISTRY[name].measure(answers.rows, self._settings)
            except MetricError as error:
                raise InputError(error.what, file=answers.label, key="--metrics", fix=error.fix) from None
        self._known.append((answers.rows, found))
        return found


def _has(rows: Rows, need: str) -> bool:
    references = rows.references
    return {
        PREDICTIONS: rows.predictions is not None,
        REFERENCES: references is not None,
        ENTITIES: references is not None and any(each.entities is not None for each in references),
        OPTIONS: rows.options is not None,
    }[need]


def _lacking(label: str, name: str, need: str) -> InputError:
    fixes = {
        PREDICTIONS: "name the column of the answers with --columns prediction=NAME",
        REFERENCES: "add the column reference, name it with --columns reference=NAME, or use --references FILE; the "
        "metric length needs no references",
        ENTITIES: "add the column entities (a list of {text, assertion}), also in the file of --references",
        OPTIONS: "add the column option_logprobs: a list with the log-probability of each option",
    }
    return InputError(
        f"the metric {name} needs {need}, but the file has none", file=label, key="--metrics", fix=fixes[need]
    )


def as_json(found: FileScores) -> dict[str, Any]:
    """Return the scores of a file as JSON values."""
    return {
        "file": found.label,
        "rows": found.rows,
        "drawn": found.drawn,
        "metrics": {
            name: {number: _number(value) for number, value in numbers.items()}
            for name, numbers in found.metrics.items()
        },
        "classes": {
            name: {
                each: {
                    "wanted": counts.wanted,
                    "predicted": counts.predicted,
                    "hits": counts.hits,
                    "precision": counts.precision,
                    "recall": counts.recall,
                    "f1": counts.f1,
                }
                for each, counts in classes.items()
            }
            for name, classes in found.classes.items()
        },
        "notes": list(found.notes),
        "warnings": list(found.warnings),
    }


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    first, second = found.first.numbers, found.second.numbers
    return {
        "first": found.first.label,
        "second": found.second.label,
        "rows": found.first.rows,
        "numbers": {
            name: {
                "first": first[name].value,
                "second": second[name].value,
                "difference": each.value,
                "low": each.interval and each.interval.low,
                "high": each.interval and each.interval.high,
                "p": each.p,
            }
            for name, each in found.differences.items()
        },
        "notes": list(found.notes),
    }


def _number(number: Number) -> dict[str, float | None]:
    bounds = number.interval
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    return {"value": number.value, "low": low, "high": high}
