"""The HTML report of a run: one file that opens offline, without scripts and without links.

The page's Content-Security-Policy allows only its own style sheet (by hash), so text of a record cannot become code.
Every value is escaped as well. Charts are inline SVG (`svg`).
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from medray import storage
from medray.config.eval import lower_is_better
from medray.report.console import duration, number, size, status_of
from medray.report.curves import is_number, loss_chart, pair_charts, small_charts
from medray.report.svg import bars, spread
from medray.storage import StoragePath
from medray.tracking.mlflow_names import warnings_of

Record = dict[str, Any]

HEADLINE_METRICS = 3
_PHASES = ("setup", "data", "first_step", "train", "checkpoint_blocked", "evaluate", "export", "total")
_PHASE_NAMES = {"first_step": "until first step", "checkpoint_blocked": "blocked by saving"}


def write_report(
    path: StoragePath,
    *,
    summary: Record,
    config_yaml: str,
    steps: list[Record],
    evaluations: list[Record],
    data_table: list[tuple[str, str]],
    lengths: dict[str, dict[str, float]],
    samples: list[Record] | None,
    restarts: Sequence[int] = (),
) -> None:
    """Write the report of one run to `path`, atomically. The arguments are those of `run_page`."""
    page = run_page(
        str(summary.get("name") or path.parent.name),
        summary=summary,
        config_yaml=config_yaml,
        steps=steps,
        evaluations=evaluations,
        data_table=data_table,
        lengths=lengths,
        samples=samples,
        restarts=restarts,
    )
    storage.write(path, page)


def run_page(
    title: str,
    *,
    summary: Record,
    config_yaml: str,
    steps: list[Record],
    evaluations: list[Record],
    data_table: list[tuple[str, str]],
    lengths: dict[str, dict[str, float]],
    samples: list[Record] | None,
    restarts: Sequence[int] = (),
) -> str:
    """Return the HTML report of one run.

    summary: as in summary.json; missing keys are not shown. steps, evaluations: the lines of steps.jsonl and evals.jsonl.
    data_table: (what, value). lengths: for each task p50, p90, p99 and max in tokens, and truncated, a number of rows.
    samples: dicts with "prompt", "reference" and "prediction"; None shows no text of any record.
    restarts: the step after which each start but the first resumed.
    """
    before, after = before_after(summary, evaluations)
    body = [
        _header(title, summary, config_yaml),
        _warnings(summary),
        _cards(summary, steps, before, after),
        _section("Loss", loss_chart(steps, evaluations, restarts)),
        _section("Preferences", pair_charts(steps, evaluations)),
        _section("Training curves", small_charts(steps)),
        _pair(_section("Evaluation", _evaluation_table(before, after)), _section("Time", _timings(summary))),
        _section("Data", _data(data_table, lengths)),
        _samples(samples),
        _pair(
            _section("Run", _run_table(summary)),
            _section("Versions", _rows(_strings(summary.get("versions")))),
        ),
        _config(config_yaml),
        f"<footer>medray run report, written {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}</footer>",
    ]
    return _page(title, "\n".join(part for part in body if part))


def _page(title: str, body: str) -> str:
    text = files("medray.report").joinpath("report_template.html").read_text("utf-8")
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(text).substitute(style_hash=f"sha256-{digest}", title=escape(title), body=body)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _pair(left: str, right: str) -> str:
    return f'<div class="two">{left}{right}</div>' if left and right else left or right


def _header(title: str, summary: Record, config_yaml: str) -> str:
    status = str(summary.get("status", "unknown"))
    kind = status if status in ("done", "failed") and not warnings_of(summary) else "stopped"
    facts = [
        _yaml_value(config_yaml, *key) for key in (("model", "name"), ("method", "name"), ("peft", "type"))
    ]
    if summary.get("world_size"):
        facts.append(f"{summary['world_size']} worker" + ("s" if summary["world_size"] != 1 else ""))
    if summary.get("reason"):
        facts.append(str(summary["reason"]))
    line = " · ".join(escape(fact) for fact in facts if fact and fact not in ("null", "none"))
    pill = f'<span class="pill {kind}">{escape(status_of(summary))}</span>'
    return f'<header><h1>{escape(title)}</h1>{pill}<p class="facts">{line}</p></header>'


def _warnings(summary: Record) -> str:
    """Return the warnings. They are first on the page, because the page of a broken model looks as good as any other."""
    items = "".join(f"<li>{escape(text)}</li>" for _, text in warnings_of(summary))
    if not items:
        return ""
    return f'<section class="warnings"><h2>Check the model before you use it</h2><ul>{items}</ul></section>'


def _yaml_value(config_yaml: str, section: str, key: str) -> str:
    """Return a plain scalar of a resolved config, which is block YAML with two levels; "" if it is missing."""
    inside = False
    for line in config_yaml.splitlines():
        if line[:1].strip():
            inside = line.rstrip() == f"{section}:"
        elif inside and line.strip().startswith(f"{key}:") and len(line) - len(line.lstrip()) in (2, 4):
            return line.split(":", 1)[1].strip().strip("'\"")
    return ""


def _cards(summary: Record, steps: list[Record], before: Record, after: Record) -> str:
    first = summary.get("train_loss_first", steps[0].get("loss") if steps else None)
    last = summary.get("train_loss_last", steps[-1].get("loss") if steps else None)
    cards = []
    if last is not None:
        cards.append(
            _card(
                "training loss",
                first,
                last,
                f"{number(summary['steps'])} steps" if summary.get("steps") else "",
            )
        )
    shown = [name for name in after if not name.startswith(("loss", "seconds", "rows"))] or list(after)
    cards += [
        _card(name, before.get(name), after[name], "before → after" if name in before else "")
        for name in shown[:HEADLINE_METRICS]
    ]
    if summary.get("tokens_per_second"):
        tokens = f"{number(summary['tokens'])} tokens" if summary.get("tokens") else ""
        cards.append(_plain_card("tokens per second", f"{summary['tokens_per_second']:,.0f}", tokens))
    seconds = summary.get("seconds") or {}
    if seconds.get("total"):
        start = f"first step after {duration(seconds['first_step'])}" if seconds.get("first_step") else ""
        cards.append(_plain_card("time", duration(seconds["total"]), start))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _card(what: str, first: object, last: object, note: str) -> str:
    start = f'<span class="from">{escape(_brief(first))} →</span> ' if first is not None else ""
    return _card_html(what, start + escape(_brief(last)), note)


def _plain_card(what: str, value: str, note: str) -> str:
    return _card_html(what, escape(value), note)


def _card_html(what: str, big: str, note: str) -> str:
    tail = f'<div class="note">{escape(note)}</div>' if note else ""
    return f'<div class="card"><div class="what">{escape(what)}</div><div class="big">{big}</div>{tail}</div>'


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else number(value)


def before_after(summary: Record, evaluations: list[Record]) -> tuple[Record, Record]:
    """Return metrics before and after training: from the summary, or else from the first (step 0) and last evaluation."""
    found = summary.get("eval") or {}
    if isinstance(found.get("before"), dict) or isinstance(found.get("after"), dict):
        before, after = found.get("before") or {}, found.get("after") or {}
    else:
        before, after = {}, found
    if not before and evaluations and evaluations[0].get("step") == 0:
        before = evaluations[0].get("metrics", {})
    if not after and evaluations and evaluations[-1].get("step", 0) > 0:
        after = evaluations[-1].get("metrics", {})
    return _only_numbers(before), _only_numbers(after)


def _only_numbers(metrics: Record) -> Record:
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def _evaluation_table(before: Record, after: Record) -> str:
    names = list(dict.fromkeys([*after, *before]))
    if not names:
        return ""
    rows = []
    for name in names:
        old, new = before.get(name), after.get(name)
        cells = [_cell(name)] + [_cell(number(v) if v is not None else "–", "n") for v in (old, new)]
        if before:
            cells.append(_change(name, old, new))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    columns = ["before", "after", *(["change"] if before else [])]
    head = "<th>metric</th>" + "".join(f'<th class="n">{column}</th>' for column in columns)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _change(name: str, old: float | None, new: float | None) -> str:
    if old is None or new is None or not math.isfinite(new - old):
        return _cell("", "n")
    better = new < old if lower_is_better(name) else new > old
    colour = "" if new == old else " up" if better else " down"
    return _cell(f"{new - old:+.4g}".replace("-", "−"), "n" + colour)


def _timings(summary: Record) -> str:
    seconds = summary.get("seconds") or {}
    names = [*(p for p in _PHASES if p in seconds), *(p for p in seconds if p not in _PHASES)]
    rows = [
        (_PHASE_NAMES.get(p, p), float(seconds[p]), duration(seconds[p]))
        for p in names
        if is_number(seconds[p])
    ]
    chart = bars(rows, width=480)
    return (
        chart
        + '<p class="hint">Phases overlap: tokenizing runs in parallel with training, and training includes saving.</p>'
        if chart
        else ""
    )


def _data(data_table: list[tuple[str, str]], lengths: dict[str, dict[str, float]]) -> str:
    table = _rows(data_table)
    if not lengths:
        return table
    keys = ("p50", "p90", "p99", "max", "truncated")
    most = max((float(row.get("max", 0)) for row in lengths.values()), default=0.0)
    head = "<th>tokens by task</th>" + "".join(f'<th class="n">{key}</th>' for key in keys) + "<th></th>"
    rows = []
    for task, row in lengths.items():
        cells = [_cell(task)] + [_cell(f"{row[key]:,.0f}" if key in row else "–", "n") for key in keys]
        picture = spread(row.get("p50", 0), row.get("p90", 0), row.get("p99", 0), most)
        rows.append(f'<tr>{"".join(cells)}<td class="n">{picture}</td></tr>')
    measured = f'<div class="scroll lengths"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    hint = '<p class="hint">Bars: dark up to p50, pale up to p90, a mark at p99; the full width is the longest. Truncated: rows cut to fit.</p>'
    return f"{table}{measured}{hint}"


def _samples(samples: list[Record] | None) -> str:
    if not samples:
        return ""
    parts = []
    for sample in samples:
        said = [f'<p class="said prompt">{escape(str(sample.get("prompt", "")))}</p><div class="two">']
        said += [
            f'<div><h3>{key}</h3><p class="said">{escape(str(sample.get(key, "")))}</p></div>'
            for key in ("reference", "prediction")
        ]
        parts.append(f'<div class="sample">{"".join(said)}</div></div>')
    return f'<section class="long"><h2>Predictions and references</h2>{"".join(parts)}</section>'


def _run_table(summary: Record) -> str:
    rows = [
        (key.replace("_", " "), number(summary[key]))
        for key in ("steps", "epochs", "samples", "tokens")
        if key in summary
    ]
    if "loss_tokens" in summary:
        rows.append(("tokens in the loss", number(summary["loss_tokens"])))
    if is_number(summary.get("padding_fraction")):
        rows.append(("padding", f"{summary['padding_fraction']:.1%}"))
    if memory := summary.get("memory"):
        rows.append(
            (
                f"peak memory of a worker ({memory.get('device') or 'unknown device'})",
                size(memory["peak_bytes"]),
            )
        )
        if memory.get("planned_bytes"):
            rows.append(("peak memory as planned for the longest rows", size(memory["planned_bytes"])))
    rows += [(key, number(summary[key])) for key in ("world_size", "restarts") if key in summary]
    if summary.get("order_sha256"):
        rows.append(("order (sha256)", str(summary["order_sha256"])[:16] + "…"))
    return _rows([(key.replace("_", " "), value) for key, value in rows])


def _strings(versions: object) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in versions.items()] if isinstance(versions, dict) else []


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr>{_cell(key, 'key')}{_cell(value, 'value')}</tr>" for key, value in rows)
    return f"<table>{body}</table>" if body else ""


def _cell(text: object, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(text))}</td>' if kind else f"<td>{escape(str(text))}</td>"


def _config(config_yaml: str) -> str:
    if not config_yaml.strip():
        return ""
    return (
        '<section class="long"><details><summary>Resolved config</summary>'
        f"<pre>{escape(config_yaml.rstrip())}</pre></details></section>"
    )
