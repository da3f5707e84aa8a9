"""The curves of a run: its loss, the means over preference pairs, learning rate, speed and gradient norm, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medray.config.method_specs import split_task
from medray.report.svg import Series, line_chart

Record = dict[str, Any]

MOST_TERMS = 40  # curves of the loss chart
LARGEST = 1e150  # of a number in a chart, so that sums and products of such numbers are finite

# Title → logged name → label of the curve. The names are those of `methods.pair_losses.pair_statistics`.
_PAIR_CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Reward", {"reward_chosen": "chosen", "reward_rejected": "rejected", "reward_margin": "margin"}),
    ("Log-probability of an answer", {"logp_chosen": "chosen", "logp_rejected": "rejected"}),
    ("Share of pairs", {"preference_accuracy": "chosen is preferred", "penalized_pairs": "penalized"}),
    ("Chosen answer against the reference", {"chosen_over_reference": "log-probability gained"}),
)


def _loss_series(steps: list[Record], evaluations: list[Record]) -> list[Series]:
    """Return the training loss, the loss of each task, and points for the same losses in evaluations.

    The keys of a rationale share one curve: a record has `loss/rationale` as well as `loss/rationale/Age`.
    """
    terms = {key for record in steps for key in record if key.startswith("loss/")}
    names = ["loss", *sorted(key for key in terms if not split_task(key.removeprefix("loss/"))[1])]
    names = names[:MOST_TERMS]
    if len(names) == 2:
        names = names[:1]  # with one task, its loss is the total loss
    series = []
    for colour, name in enumerate(names):
        label = (
            name.removeprefix("loss/") if name != "loss" else ("all tasks" if len(names) > 1 else "training")
        )
        points = [(record["step"], record[name]) for record in steps if is_number(record.get(name))]
        held_out = [
            (e["step"], e["metrics"][name]) for e in evaluations if is_number(e.get("metrics", {}).get(name))
        ]
        series.append(Series(name=label, points=points, colour=colour))
        if held_out:
            series.append(
                Series(
                    name=f"{label}, validation" if len(names) > 1 else "validation",
                    points=held_out,
                    colour=colour,
                    marks=True,
                )
            )
    return [one for one in series if one.points]


def loss_chart(steps: list[Record], evaluations: list[Record], restarts: Sequence[int] = ()) -> str:
    """Return the chart of the loss and of its terms; "" without steps.

    restarts: the step after which each start but the first resumed.
    """
    series = _loss_series(steps, evaluations)
    chart = line_chart(series, width=1000, height=330, label="Loss by step", restarts=restarts)
    return legend(series, restarted=bool(restarts)) + chart if chart else ""


def legend(series: Sequence[Series], *, restarted: bool = False) -> str:
    """Return a legend: a line for each task, and one mark for validation points, which have the colour of their task."""
    marks = [(_stroke(one), one.name) for one in series if not one.marks]
    if any(one.marks for one in series):
        marks.append(('<circle class="dot any" cx="11" cy="5" r="4"/>', "validation"))
    if restarted:
        marks.append(('<line class="restart" x1="11" x2="11" y1="0" y2="10"/>', "started again"))
    items = [
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true">{mark}</svg>{escape(name)}</li>'
        for mark, name in marks
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _stroke(series: Series) -> str:
    return f'<line class="line {series.stroke}" x1="1" x2="21" y1="5" y2="5"/>'


def swatch(series: Series) -> str:
    """Return a short line with the colour and dashes of a series, for a table."""
    return f'<svg class="swatch" viewBox="0 0 22 10" aria-hidden="true">{_stroke(series)}</svg>'


def small_charts(steps: list[Record]) -> str:
    """Return the charts of learning rate, speed and gradient norm; "" without steps."""
    rate = [
        (r["step"], r["tokens"] / r["seconds"])
        for r in steps
        if is_number(r.get("tokens")) and r.get("seconds")
    ]
    columns = [
        ("Learning rate", Series(name="learning rate", points=column(steps, "lr"), colour=2, smooth=False)),
        ("Tokens per second", Series(name="tokens per second", points=rate, colour=0)),
        ("Gradient norm", Series(name="gradient norm", points=column(steps, "grad_norm"), colour=3)),
    ]
    charts = [
        (title, line_chart([one], width=330, height=150, y_ticks=3, x_ticks=4, label=title))
        for title, one in columns
    ]
    return three(charts)


def pair_charts(steps: list[Record], evaluations: list[Record]) -> str:
    """Return the charts of preference training: the means over pairs of each step, and points for evaluations."""
    return three([(title, _pair_chart(title, names, steps, evaluations)) for title, names in _PAIR_CHARTS])


def _pair_chart(title: str, names: Mapping[str, str], steps: list[Record], evaluations: list[Record]) -> str:
    series = []
    for colour, (name, label) in enumerate(names.items()):
        held_out = column([{"step": one["step"], **one.get("metrics", {})} for one in evaluations], name)
        series.append(Series(name=label, points=column(steps, name), colour=colour))
        series.append(Series(name=label, points=held_out, colour=colour, marks=True))
    shown = [one for one in series if one.points]
    chart = line_chart(shown, width=330, height=150, y_ticks=3, x_ticks=4, label=title)
    return chart + legend(shown) if chart else ""


def three(charts: Sequence[tuple[str, str]]) -> str:
    """Return (title, chart) pairs in columns of three; "" without charts."""
    parts = [f"<div><h3>{escape(title)}</h3>{chart}</div>" for title, chart in charts if chart]
    return f'<div class="three">{"".join(parts)}</div>' if parts else ""


def column(steps: list[Record], key: str) -> list[tuple[float, float]]:
    return [(record["step"], record[key]) for record in steps if is_number(record.get(key))]


def is_number(value: object) -> bool:
    """Return whether a value is a finite number that a chart can show, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
