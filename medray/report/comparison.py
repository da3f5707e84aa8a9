"""The page that compares several runs: one HTML file like that of a run (`run_page`), which opens offline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from medray.config.eval import lower_is_better
from medray.report.console import duration, number
from medray.report.curves import legend, swatch, three
from medray.report.run_page import _cell, _page, _section
from medray.report.svg import DASHES, SERIES_COLOURS, Point, Series, line_chart

MOST_RUNS = DASHES * SERIES_COLOURS - 6  # each run has a line of its own
MOST_METRICS, MOST_KEYS, MOST_WARNINGS, LONGEST = 30, 200, 20, 300
TRAIN_LOSS = "training loss"
DIVERGED = 4  # a loss of this many times the highest first loss is not drawn
# Numbers that describe a run: a higher or lower value is not better.
_NO_BEST = ("rows", "seconds", "pairs", "reward_", "logp_", "chosen_over_reference", "penalized_pairs")

_NUMBERS = (  # of a run in the JSON object
    *("label", "folder", "status", "reason", "steps", "tokens", "seconds", "restarts"),
    *("train_loss_first", "train_loss_last", "before", "after", "warnings"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """The values of a run that a comparison shows.

    seconds: the duration of all its steps. before, after: metrics before and after training. losses: (step, training
    loss). metrics: (step, value) of each evaluation by the name of the metric.
    """

    label: str
    folder: str
    status: str
    reason: str | None
    steps: int
    tokens: int
    seconds: float
    restarts: int
    train_loss_first: float | None
    train_loss_last: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    warnings: tuple[str, ...]
    losses: tuple[Point, ...]
    metrics: Mapping[str, tuple[Point, ...]]

    def value(self, metric: str) -> float | None:
        """Return the final value of a metric; the name TRAIN_LOSS is the loss of the last step."""
        return self.train_loss_last if metric == TRAIN_LOSS else self.after.get(metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A key of the configs, and its value in each run as text that is safe to show."""

    key: str
    values: tuple[str, ...]


def comparison_numbers(runs: Sequence[ComparedRun], differences: Sequence[Difference]) -> dict[str, Any]:
    """Return the numbers of the page as one JSON object."""
    return {
        "runs": [{name: getattr(run, name) for name in _NUMBERS} for run in runs],
        "best": {metric: [run.label for run in best] for metric in _columns(runs) if (best := _best(runs, metric))},
        "differences": {
            one.key: {run.label: value for run, value in zip(runs, one.values, strict=True)} for one in differences
        },
    }  # fmt: skip


def comparison_page(runs: Sequence[ComparedRun], differences: Sequence[Difference]) -> str:
    """Return the HTML page that compares at most MOST_RUNS runs."""
    title = f"{len(runs)} runs compared"
    lines = [_line(index, run.label, run.losses) for index, run in enumerate(runs)]
    body = [
        f"<header><h1>{title}</h1></header>",
        _warnings(runs),
        _section("Runs", _table(runs, lines)),
        _section("Training loss", _losses(lines)),
        _section("Evaluations", _metrics(runs)),
        _section("Keys that differ", _differences(runs, differences)),
        f"<footer>medray comparison of runs, written {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}</footer>",
    ]
    return _page(title, "\n".join(part for part in body if part))


def _line(index: int, label: str, points: Sequence[Point]) -> Series:
    """Return the line of a run: eight colours, which later runs repeat with dashes."""
    return Series(name=label, points=points, colour=index % SERIES_COLOURS, dash=index // SERIES_COLOURS)


def _warnings(runs: Sequence[ComparedRun]) -> str:
    items = []
    for run in runs:
        texts = [_cut(text) for text in run.warnings[:MOST_WARNINGS]]
        if left := len(run.warnings) - len(texts):
            texts.append(f"{left} more warnings")
        items += [f"<li>{escape(run.label)}: {escape(text)}</li>" for text in texts]
    if not items:
        return ""
    return f'<section class="warnings"><h2>Check these models before you use them</h2><ul>{"".join(items)}</ul></section>'


def _columns(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the metrics of the table: the training loss, and what evaluations have measured."""
    return [TRAIN_LOSS, *list(dict.fromkeys(name for run in runs for name in run.after))[:MOST_METRICS]]


def _best(runs: Sequence[ComparedRun], metric: str) -> list[ComparedRun]:
    """Return the runs with the best value; [] if fewer than two runs have one, or all have the same."""
    have = [(value, run) for run in runs if (value := run.value(metric)) is not None]
    values = {value for value, _ in have}
    if len(values) < 2 or metric.startswith(_NO_BEST):
        return []
    best = min(values) if lower_is_better(metric) else max(values)
    return [run for value, run in have if value == best]


def _table(runs: Sequence[ComparedRun], lines: Sequence[Series]) -> str:
    metrics = _columns(runs)
    head = "<th>run</th><th>status</th>"
    head += "".join(
        f'<th class="n">{escape(_cut(name, 60))}</th>' for name in ("steps", "tokens", "time", *metrics)
    )
    best = {metric: {run.label for run in _best(runs, metric)} for metric in metrics}
    rows = []
    for run, line in zip(runs, lines, strict=True):
        again = f", {run.restarts} restart{'s' if run.restarts != 1 else ''}" if run.restarts else ""
        status = run.status + again + (f": {_cut(run.reason)}" if run.reason else "")
        cells = [f'<td class="run">{swatch(line)}{escape(run.label)}</td>', _cell(status)]
        facts = (f"{run.steps:,}", f"{run.tokens:,}", duration(run.seconds))
        cells += [_cell(text, "n") for text in facts]
        for metric in metrics:
            value = run.value(metric)
            text = number(value) if value is not None else "–"
            cells.append(_cell(f"★ {text}", "n best") if run.label in best[metric] else _cell(text, "n"))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    hint = '<p class="hint">★ marks the best value of a column. Time: of all steps, without starts and evaluations.</p>'
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{hint}'


def _losses(lines: Sequence[Series]) -> str:
    shown, hint = _within(lines)
    chart = line_chart(shown, width=1000, height=330, label="Training loss by step")
    return legend([line for line in lines if line.points]) + chart + hint if chart else ""


def _within(lines: Sequence[Series]) -> tuple[list[Series], str]:
    """Return lines of a loss without the points of runs that diverged, and a hint that names these runs.

    One loss of 1e6 would make all other lines flat. The highest value that is drawn is DIVERGED times the highest first
    value of a run.
    """
    limit = DIVERGED * max((line.points[0][1] for line in lines if line.points), default=0.0)
    cut = [line.name for line in lines if any(y > limit for _, y in line.points)]
    if not cut or limit <= 0:
        return list(lines), ""
    shown = [replace(line, points=[point for point in line.points if point[1] <= limit]) for line in lines]
    return (
        shown,
        f'<p class="hint">Values above {number(limit)} are not drawn: {escape(_cut(", ".join(cut)))}.</p>',
    )


def _metrics(runs: Sequence[ComparedRun]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    charts = [(name, _metric(runs, name)) for name in names[:MOST_METRICS]]
    if not any(chart for _, chart in charts):
        return ""
    left = len(names) - MOST_METRICS
    note = f'<p class="hint">{left} more metrics are not drawn.</p>' if left > 0 else ""
    have = [_line(index, run.label, ((0, 0),)) for index, run in enumerate(runs) if run.metrics]
    return legend(have) + three(charts) + note


def _metric(runs: Sequence[ComparedRun], name: str) -> str:
    """Return the chart of one metric: a line and points for each run."""
    lines = [_line(index, run.label, run.metrics.get(name, ())) for index, run in enumerate(runs)]
    lines, hint = _within(lines) if lower_is_better(name) else (lines, "")
    series = [each for line in lines for each in (line, replace(line, marks=True, dash=0))]
    chart = line_chart(series, width=330, height=150, y_ticks=3, x_ticks=4, label=name)
    return chart + hint if chart else ""


def _differences(runs: Sequence[ComparedRun], differences: Sequence[Difference]) -> str:
    if not differences:
        return '<p class="hint">All keys have the same values, apart from run.name and run.storage.</p>'
    head = "<th>key</th>" + "".join(f"<th>{escape(run.label)}</th>" for run in runs)
    rows = [
        f"<tr>{_cell(one.key[:LONGEST], 'key')}{''.join(_cell(value, 'value') for value in one.values)}</tr>"
        for one in differences[:MOST_KEYS]
    ]
    left = len(differences) - MOST_KEYS
    hint = "Keys with equal values are not listed. (text): the values differ, and are not shown because they may quote records."
    hint += f" {left} more keys differ." if left > 0 else ""
    return (
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div><p class="hint">{hint}</p>'
    )


def _cut(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
