"""Scores as tables of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from medray.evaluate.scoring.bootstrap import Bootstrap, Interval
from medray.evaluate.scoring.scores import Comparison, FileScores, Number

Table = tuple[str, list[tuple[str, ...]]]  # title and rows


def tables(found: Sequence[FileScores], settings: Bootstrap) -> list[Table]:
    """Return one table of the numbers of all files, and one of the classes of each metric that has classes."""
    if len(found) == 1:
        one = found[0]
        rows: list[tuple[str, ...]] = [
            (name, _text(each.value), _bounds(each.interval)) for name, each in one.numbers.items()
        ]
        made: list[Table] = [(f"{one.label}: {_count(one)}{_how(one, settings)}", rows)]
    else:
        names = list(dict.fromkeys(name for each in found for name in each.numbers))
        head = ("", *(f"{each.label}: {_count(each)}" for each in found))
        body = [(name, *(_cell(each.numbers.get(name)) for each in found)) for name in names]
        made = [(f"{len(found)} files{_how(found[0], settings)}", [head, *body])]
    for each in found:
        made += _classes(each, several=len(found) > 1)
    return made


def comparison_table(found: Comparison, settings: Bootstrap) -> Table:
    """Return the table of a comparison: both values, the difference with its interval, and p."""
    first, second = found.first, found.second
    head = ("", first.label, second.label, "difference", "interval", "p")
    values, others = first.numbers, second.numbers
    body = [
        (
            name,
            _text(values[name].value),
            _text(others[name].value),
            _signed(each.value),
            _bounds(each.interval),
            "" if each.p is None else f"{each.p:.3f}",
        )
        for name, each in found.differences.items()
    ]
    return f"{second.label} minus {first.label}: {_count(first)} in both{_how(first, settings)}", [
        head,
        *body,
    ]


def _classes(found: FileScores, *, several: bool) -> list[Table]:
    head = ("", "wanted", "predicted", "right", "precision", "recall", "F1")
    made: list[Table] = []
    for metric, classes in found.classes.items():
        rows: list[tuple[str, ...]] = [
            (
                name,
                f"{each.wanted}",
                f"{each.predicted}",
                f"{each.hits}",
                f"{each.precision:.3f}",
                f"{each.recall:.3f}",
                f"{each.f1:.3f}",
            )
            for name, each in classes.items()
        ]
        made.append((f"{metric} by class{f', {found.label}' * several}", [head, *rows]))
    return made


def _count(found: FileScores) -> str:
    return f"{found.rows:,} row{'s' if found.rows != 1 else ''}"


def _how(found: FileScores, settings: Bootstrap) -> str:
    if all(each.interval is None for each in found.numbers.values()):
        return ""
    groups = f" over {found.drawn:,} groups" if found.drawn != found.rows else ""
    return f", {100 * settings.confidence:g} % intervals of {settings.samples:,} resamples{groups}"


def _text(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _cell(found: Number | None) -> str:
    return "" if found is None else f"{_text(found.value)} {_bounds(found.interval)}".strip()


def _bounds(found: Interval | None) -> str:
    return "" if found is None else f"[{_text(found.low)}, {_text(found.high)}]"


def _signed(value: float) -> str:
    return f"+{_text(value)}" if value > 0 else _text(value)
