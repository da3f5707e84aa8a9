"""Small charts as inline SVG: lines with axes, and horizontal bars.

Colours are classes (`s0` … `s7`) that the page's style sheet defines, so one drawing serves light mode, dark mode and
print. Hovering shows a mark's numbers through SVG's own <title>, without a script. `xmlns` is omitted, because HTML
does not need it.

The charts are medray's own code. The SVG of matplotlib was tried (3.11): it writes colours as `style` attributes,
which the page's Content-Security-Policy refuses and a dark page cannot change; it has no <title> for a mark; its `id`s
are the same in every chart of a page; and its import takes half a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

SERIES_COLOURS = 8
DASHES = 7  # a solid line and six patterns
MOST_RESTARTS = 200
MOST_POINTS = 400  # a line with more points is drawn as means of equal groups of points
SMOOTH_FROM = 60  # from this many points, a running mean is drawn over the pale raw line

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The points of one line in a chart, sorted by x, drawn as a line, or as circles if `marks` is true.

    dash: 0 for a solid line, or a pattern of dashes (`d1` … `d6` in the style sheet), because there are eight colours only.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0
    marks: bool = False
    smooth: bool = True

    @property
    def stroke(self) -> str:
        """Return the classes of its colour and dashes."""
        return f"s{self.colour}" + (f" d{self.dash}" if self.dash else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """The mapping from data to the drawing's pixels."""

    left: float
    right: float
    top: float
    bottom: float
    low: Point
    high: Point

    def x(self, value: float) -> float:
        return self.left + (value - self.low[0]) / (self.high[0] - self.low[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low[1]) / (self.high[1] - self.low[1]) * (self.bottom - self.top)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that span low to high, with steps of 1, 2, 2.5 or 5 times a power of ten."""
    if (
        high - low <= max(abs(low), abs(high)) * 1e-12 + 1e-300
    ):  # floats of this size have no round numbers between them
        pad = abs(low) * 0.1 if abs(low) > 1e-290 else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next((f * power for f in (1.0, 2.0, 2.5, 5.0) if f * power >= raw * 0.999), 10.0 * power)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [i * gap for i in range(first, last + 1)]


def short(value: float) -> str:
    """Format the label of a tick: 12k, 1.5M, 0.25, 3e-05."""
    if value == 0:
        return "0"
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.3g}".replace("e-0", "e-")


def line_chart(
    series: Sequence[Series],
    *,
    width: int,
    height: int,
    y_ticks: int = 5,
    x_ticks: int = 8,
    label: str = "",
    restarts: Sequence[int] = (),
) -> str:
    """Return a line chart of the series over integer x (steps) as SVG. Points that are not finite are left out.

    restarts: steps at which a vertical line is drawn. Returns "" if no points are left.
    """
    drawn = [_finite(one) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.points]
    ys = _within_reach(drawn)
    y_marks = ticks(min(ys), max(ys), y_ticks)
    wide = max(len(short(mark)) for mark in y_marks) * 7.0 + 12
    high_x = max(xs) if max(xs) > min(xs) else min(xs) + 1
    frame = _Frame(
        left=wide,
        right=width - 10.0,
        top=10.0,
        bottom=height - 26.0,
        low=(min(xs), y_marks[0]),
        high=(high_x, y_marks[-1]),
    )
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    parts += _axes(
        frame, y_marks, [m for m in ticks(min(xs), high_x, x_ticks) if min(xs) <= m <= high_x and m % 1 == 0]
    )
    parts += _restarts(frame, restarts)
    for one in drawn:
        parts += _marks(frame, one) if one.marks else _line(frame, one)
    return "".join([*parts, "</svg>"])


def _finite(series: Series) -> Series:
    points = [(float(x), float(y)) for x, y in series.points if math.isfinite(x) and math.isfinite(y)]
    return replace(series, points=points, colour=series.colour % SERIES_COLOURS)


def _within_reach(drawn: list[Series]) -> list[float]:
    """Return the values that the y axis must show: all points as drawn, after thinning."""
    return [y for one in drawn for _, y in _thin(one.points)]


def _axes(frame: _Frame, y_marks: list[float], x_marks: list[float]) -> Iterator[str]:
    for mark in y_marks:
        y = frame.y(mark)
        yield f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{frame.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(mark)}</text>'
    base = f'y1="{frame.bottom:.1f}" y2="{frame.bottom:.1f}"'
    yield f'<line class="axis" x1="{frame.left:.1f}" x2="{frame.right:.1f}" {base}/>'
    for mark in x_marks:
        x = frame.x(mark)
        anchor = "end" if x > frame.right - 12 else "middle"
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom:.1f}" y2="{frame.bottom + 4:.1f}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 18:.1f}" text-anchor="{anchor}">{short(mark)}</text>'


def _restarts(frame: _Frame, steps: Sequence[int]) -> Iterator[str]:
    """Yield a vertical line for each step, at most MOST_RESTARTS of them. A start from step 0 is at the left edge."""
    for step in sorted(set(steps))[:MOST_RESTARTS]:
        if step <= frame.high[0]:
            x = frame.x(max(step, frame.low[0]))
            title = f"<title>started again after step {step:,}</title>"
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:.1f}" y2="{frame.bottom:.1f}"'
            yield f'<line class="restart" {ends}>{title}</line>'


def _line(frame: _Frame, series: Series) -> Iterator[str]:
    points = _thin(series.points)
    colour = series.stroke
    if len(points) == 1:
        yield _dot(frame, series, points[0])
        return
    if series.smooth and len(series.points) >= SMOOTH_FROM:
        yield f'<polyline class="line raw {colour}" points="{_path(frame, points)}"/>'
        points = _running_mean(points)
    yield f'<polyline class="line {colour}" points="{_path(frame, points)}"><title>{escape(series.name)}</title></polyline>'


def _marks(frame: _Frame, series: Series) -> Iterator[str]:
    for point in _thin(series.points):
        yield _dot(frame, series, point)


def _dot(frame: _Frame, series: Series, point: Point) -> str:
    title = f"<title>{escape(series.name)}, step {point[0]:,.0f}: {point[1]:.4g}</title>"
    where = f'cx="{frame.x(point[0]):.1f}" cy="{frame.y(point[1]):.1f}"'
    return f'<circle class="dot s{series.colour}" {where} r="4">{title}</circle>'


def _path(frame: _Frame, points: Sequence[Point]) -> str:
    return " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= MOST_POINTS:
        return points
    edges = [i * len(points) // MOST_POINTS for i in range(MOST_POINTS + 1)]
    runs = [points[a:b] for a, b in pairwise(edges)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return [points[0], *means[1:-1], points[-1]]


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Return a centred mean over a 25th of the line.

    It is narrower at the left end, where a loss falls fast, so that the smooth line starts at the first point.
    """
    reach = max(2, len(points) // 50)
    smooth = []
    for i, (x, _) in enumerate(points):
        here = min(reach, i)
        window = points[i - here : i + here + 1]
        smooth.append((x, sum(y for _, y in window) / len(window)))
    return smooth


def bars(rows: Sequence[tuple[str, float, str]], *, width: int) -> str:
    """Return a chart of horizontal bars as SVG. rows: (name, length, label); lengths are scaled to the longest."""
    most = max((value for _, value, _ in rows), default=0.0)
    if most <= 0:
        return ""
    row, left, right = 26, 148, 96
    parts = [f'<svg class="chart" viewBox="0 0 {width} {row * len(rows) + 4}" role="img" aria-label="bars">']
    for i, (name, value, label) in enumerate(rows):
        y = i * row + 4
        long = (width - left - right) * value / most
        parts.append(
            f'<text class="name" x="{left - 12}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<rect class="track" x="{left}" y="{y + 2}" width="{width - left - right}" height="16" rx="3"/>'
        )
        parts.append(
            f'<rect class="bar s0" x="{left}" y="{y + 2}" width="{max(long, 1.5):.1f}" height="16" rx="3"/>'
        )
        parts.append(f'<text class="name" x="{width - right + 12}" y="{y + 14}">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def spread(low: float, middle: float, high: float, most: float, *, width: int = 180) -> str:
    """Return a small chart of a distribution as SVG, scaled to `most`.

    A thin line goes to the maximum, bars go to p90 and p50, and a mark is at p99. low, middle, high: p50, p90, p99, in
    the same unit as most.
    """
    scale = (width - 4) / most if most > 0 else 0.0
    return (
        f'<svg class="spread" viewBox="0 0 {width} 14" width="{width}" height="14" aria-hidden="true">'
        f'<rect class="track" x="0" y="5" width="{width}" height="4" rx="2"/>'
        f'<rect class="bar pale s0" x="0" y="3" width="{middle * scale:.1f}" height="8" rx="2"/>'
        f'<rect class="bar s0" x="0" y="3" width="{low * scale:.1f}" height="8" rx="2"/>'
        f'<rect class="bar s0" x="{high * scale:.1f}" y="1" width="2" height="12"/></svg>'
    )
