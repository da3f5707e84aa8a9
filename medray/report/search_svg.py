"""Charts of a search as inline SVG: parallel coordinates, and a metric over one key. Colours are classes, as in `svg`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from medray.report.console import number
from medray.report.svg import short, ticks

MOST_LINES = 300  # of parallel coordinates; the best are drawn, and the page says so


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis: a range of numbers, which may be logarithmic, or a list of labels."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    labels: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 to 1. For labels, the value is an index."""
        if self.labels:
            return (value + 0.5) / len(self.labels)
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return 0.5 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))

    def marks(self, count: int) -> list[tuple[float, str]]:
        """Return (share, label) of the axis's marks."""
        if self.labels:
            return [(self.share(index), cut(label)) for index, label in enumerate(self.labels)]
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            powers = [10.0**power for power in range(first, last + 1)]
            values = powers[:: max(1, len(powers) // count)] if len(powers) > 1 else [self.low, self.high]
        else:
            values = [mark for mark in ticks(self.low, self.high, count) if self.low <= mark <= self.high]
        return [(self.share(value), short(value)) for value in values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One trial. values: its position on each axis, None where it has none. kind: best, done or ended."""

    name: str
    values: tuple[float | None, ...]
    kind: str


def axis(name: str, values: Sequence[Any], *, log: bool = False) -> Axis:
    """Return an axis for values of one kind: numbers make a range, anything else a list of labels."""
    plain = [value for value in values if is_number(value)]
    if plain and len(plain) == len(values):
        return Axis(name=name, low=min(plain), high=max(plain), log=log and min(plain) > 0)
    return Axis(name=name, labels=tuple(dict.fromkeys(text_of(value) for value in values)))


def position(on: Axis, value: Any) -> float | None:
    """Return a value as a number for `Axis.share`: itself, or the index of its label on an axis of labels.

    None if the value is not a number, or not among the labels.
    """
    if on.labels:
        return float(on.labels.index(text_of(value))) if text_of(value) in on.labels else None
    return float(value) if is_number(value) else None


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else number(value) if is_number(value) else str(value).lower()


def cut(text: str, most: int = 16) -> str:
    """Return the end of a text that is too long: paths of models differ there."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def parallel(axes: Sequence[Axis], lines: Sequence[Line], *, width: int = 1000, height: int = 340) -> str:
    """Return parallel coordinates: a vertical axis for each key and the metric, and a line for each trial."""
    if len(axes) < 2 or not lines:
        return ""
    left, right, top, bottom = 70.0, width - 90.0, 34.0, height - 14.0
    xs = [left + (right - left) * index / (len(axes) - 1) for index in range(len(axes))]
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="Trials by key">']
    classes = {"best": "line s1", "done": "line raw s0", "ended": "line raw s5"}
    for line in sorted(lines, key=lambda each: list(classes).index(each.kind), reverse=True):
        points = [
            f"{x:.1f},{bottom - on.share(value) * (bottom - top):.1f}"
            for x, on, value in zip(xs, axes, line.values, strict=True)
            if value is not None
        ]
        if len(points) > 1:
            title = f"<title>{escape(line.name)}</title>"
            parts.append(
                f'<polyline class="{classes[line.kind]}" points="{" ".join(points)}">{title}</polyline>'
            )
    for x, on in zip(xs, axes, strict=True):
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="name" x="{x:.1f}" y="16" text-anchor="middle">{escape(cut(on.name, 26))}</text>'
        )
        for share, label in on.marks(4):
            y = bottom - share * (bottom - top)
            parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{y + 4:.1f}">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def scatter(
    x: Axis, y: Axis, points: Sequence[tuple[float, float, str, bool]], *, width: int = 330, height: int = 190
) -> str:
    """Return a metric over one key. points: (x, y, name, whether it is the best), as the axes take them."""
    if not points:
        return ""
    left, right, top, bottom = 56.0, width - 14.0, 10.0, height - 26.0
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(x.name)}">']
    for share, label in y.marks(4):
        where = bottom - share * (bottom - top)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{where:.1f}" y2="{where:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 7}" y="{where + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for share, label in x.marks(4):
        where = left + share * (right - left)
        parts.append(
            f'<text class="tick" x="{where:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(label)}</text>'
        )
    for at_x, at_y, name, best in sorted(points, key=lambda each: each[3]):
        cx, cy = left + x.share(at_x) * (right - left), bottom - y.share(at_y) * (bottom - top)
        colour = "s1" if best else "s0"
        parts.append(
            f'<circle class="dot {colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="4"><title>{escape(name)}</title></circle>'
        )
    return "".join([*parts, "</svg>"])
