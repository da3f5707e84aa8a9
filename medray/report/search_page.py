"""The report of a search: one HTML file like that of a run (`run_page`), which opens offline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medray import storage
from medray.report.console import duration, number
from medray.report.run_page import _cell, _page, _pair, _plain_card, _section
from medray.report.search_svg import (
    MOST_LINES,
    Axis,
    Line,
    axis,
    is_number,
    parallel,
    position,
    scatter,
    text_of,
)
from medray.report.svg import Series, bars, line_chart
from medray.storage import StoragePath

Record = dict[str, Any]
MOST_CURVES = 12
_KINDS = {"done": "done", "failed": "failed"}


def write_search_report(
    path: StoragePath,
    *,
    summary: Record,
    logarithmic: frozenset[str],
    curves: Mapping[int, Sequence[tuple[float, float]]],
    importances: Sequence[tuple[str, float]],
    importances_by: str,
    best_yaml: str,
) -> None:
    """Write the report of a search to `path`, atomically.

    summary: as in summary.json. logarithmic: keys that are drawn on a logarithmic axis. curves: (percent of the run, value)
    of each evaluation by the number of the trial. importances: (key, share or correlation), the largest first.
    importances_by: how they were computed, with the number of configurations. best_yaml: text of best.yaml, or "".
    """
    search = summary["search"]
    trials: list[Record] = search["trials"]
    done = [trial for trial in trials if trial["state"] == "done" and is_number(trial["value"])]
    lower = search["mode"] == "min"
    done.sort(key=lambda trial: (trial["value"] if lower else -trial["value"], trial["number"]))
    best = search["best"]["trial"] if search.get("best") else None
    axes = _axes(trials, done, search["metric"], logarithmic)
    title = str(summary.get("name", path.parent.name))
    body = [
        _header(title, summary),
        _cards(search, done),
        _section("All keys", _parallel(axes, trials, best)),
        _section(f"{search['metric']} by key", _effects(axes, done, best)),
        _pair(
            _section("Which keys matter", _importances(importances, importances_by)),
            _section(f"{search['metric']} during training", _curves(curves, done, best)),
        ),
        _section("Trials", _table(trials, best, search["metric"])),
        _config(best_yaml),
        f"<footer>medray search report, written {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}</footer>",
    ]
    storage.write(path, _page(title, "\n".join(part for part in body if part)))


def _header(title: str, summary: Record) -> str:
    search, status = summary["search"], str(summary.get("status", "unknown"))
    better = "lower" if search["mode"] == "min" else "higher"
    facts = [f"searcher {search['searcher']}", f"scheduler {search['scheduler']}"]
    facts.append(f"best by {search['metric']}, {better} is better")
    if search.get("ended_by"):
        facts.append(f"ended by tune.{search['ended_by']}")
    pill = f'<span class="pill {_KINDS.get(status, "stopped")}">{escape(status)}</span>'
    return f'<header><h1>{escape(title)}</h1>{pill}<p class="facts">{escape(" · ".join(facts))}</p></header>'


def _cards(search: Record, done: Sequence[Record]) -> str:
    cards, best = [], search.get("best")
    if best:
        spread = f" ± {number(best['standard_deviation'])}" if best.get("standard_deviation") else ""
        cards.append(
            _plain_card(f"best {search['metric']}", number(best["value"]) + spread, f"trial {best['trial']}")
        )
        cards += [_plain_card(name, text_of(value), "") for name, value in list(best["values"].items())[:3]]
    counted = ", ".join(f"{count} {state}" for state, count in sorted(search["counts"].items()))
    cards.append(_plain_card("trials", str(len(search["trials"])), counted))
    used = (
        f"{search['gpu_hours']:.2f} GPU-hours"
        if search.get("gpu_hours")
        else f"{number(search['tokens'])} tokens"
    )
    cards.append(_plain_card("time", duration(search["seconds"]), used))
    return f'<div class="cards">{"".join(cards)}</div>'


def _axes(
    trials: Sequence[Record], done: Sequence[Record], metric: str, logarithmic: frozenset[str]
) -> list[Axis]:
    """Return an axis for each key, and last that of the metric."""
    names = list(trials[0]["values"]) if trials else []
    axes = [
        axis(name, [trial["values"].get(name) for trial in trials], log=name in logarithmic) for name in names
    ]
    return [*axes, axis(metric, [trial["value"] for trial in done])] if done else []


def _name(trial: Record) -> str:
    values = ", ".join(f"{name} {text_of(value)}" for name, value in trial["values"].items())
    value = number(trial["value"]) if is_number(trial["value"]) else trial["state"]
    return f"trial {trial['number']}: {value}; {values}"


def _parallel(axes: Sequence[Axis], trials: Sequence[Record], best: int | None) -> str:
    if not axes:
        return ""
    lines = [
        Line(
            name=_name(trial),
            values=(
                *(position(on, trial["values"].get(on.name)) for on in axes[:-1]),
                position(axes[-1], trial["value"]) if trial["state"] == "done" else None,
            ),
            kind="best" if trial["number"] == best else "done" if trial["state"] == "done" else "ended",
        )
        for trial in trials
    ]
    lines.sort(key=lambda line: line.kind != "best")
    left_out = len(lines) - MOST_LINES
    note = f"; {left_out} trials are not drawn" if left_out > 0 else ""
    hint = f'<p class="hint">One line per trial; the best is orange. Lines of trials that were stopped or failed end before the metric{note}.</p>'
    return parallel(axes, lines[:MOST_LINES]) + hint


def _effects(axes: Sequence[Axis], done: Sequence[Record], best: int | None) -> str:
    parts = []
    for on in axes[:-1]:
        points = [
            (x, float(trial["value"]), _name(trial), trial["number"] == best)
            for trial in done
            if (x := position(on, trial["values"].get(on.name))) is not None
        ]
        parts.append(f"<div><h3>{escape(on.name)}</h3>{scatter(on, axes[-1], points)}</div>")
    return f'<div class="three">{"".join(parts)}</div>' if parts else ""


def _importances(importances: Sequence[tuple[str, float]], by: str) -> str:
    chart = bars([(name[-22:], value, f"{value:.2f}") for name, value in importances], width=480)
    return f'{chart}<p class="hint">{escape(by)}</p>' if chart else ""


def _curves(
    curves: Mapping[int, Sequence[tuple[float, float]]], done: Sequence[Record], best: int | None
) -> str:
    """Return the curves of the best trials, and of others while there is room."""
    order = [trial["number"] for trial in done]
    order += [number_ for number_ in curves if number_ not in order]
    series = [
        Series(
            name=f"trial {each}",
            points=[(round(share), value) for share, value in curves.get(each, ())],
            colour=1 if each == best else 0 if each in order[: len(done)] else 5,
            smooth=False,
        )
        for each in reversed(order[:MOST_CURVES])
    ]
    chart = line_chart(series, width=480, height=240, x_ticks=5, label="Evaluations by percent of the run")
    hint = (
        '<p class="hint">By percent of each run; the best trial is orange, and stopped trials are grey.</p>'
    )
    return chart + hint if chart else ""


def _table(trials: Sequence[Record], best: int | None, metric: str) -> str:
    if not trials:
        return ""
    names = list(trials[0]["values"])
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", *names))
    head += "".join(f'<th class="n">{escape(name)}</th>' for name in (metric, "step", "seconds"))
    head += "<th>end</th>"
    rows = []
    for trial in trials:
        marked = f"{trial['number']}, the best" if trial["number"] == best else str(trial["number"])
        cells = [_cell(marked), *(_cell(text_of(trial["values"].get(name))) for name in names)]
        value = number(trial["value"]) if is_number(trial["value"]) else "–"
        cells += [_cell(text, "n") for text in (value, str(trial["step"]), f"{trial['seconds']:,.0f}")]
        reason = f": {trial['reason']}" if trial.get("reason") else ""
        state = "not ended" if trial["state"] == "begun" else trial["state"]
        rows.append(f"<tr>{''.join(cells)}{_cell(state + reason)}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _config(best_yaml: str) -> str:
    if not best_yaml.strip():
        return ""
    return (
        '<section class="long"><details><summary>best.yaml</summary>'
        f"<pre>{escape(best_yaml.rstrip())}</pre></details></section>"
    )
