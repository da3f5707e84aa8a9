"""The HTML page of `medray data inspect`: one file without scripts that shows the data as a model will see them.

It looks like the report of a run. As there, the page's Content-Security-Policy allows only its own style sheet, by
hash, and every value is escaped, so that text of a record cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from medray.report.console import number
from medray.report.inspection_rows import (
    left_out_rows,
    length_rows,
    near_rows,
    padding_rows,
    percent,
    plain,
)
from medray.report.svg import bars

_PILLS = {"problem": ("failed", "problems"), "note": ("stopped", "worth a look"), "ok": ("done", "all well")}


def inspection_page(
    title: str,
    facts: Mapping[str, Any],
    *,
    names: Mapping[str, Sequence[str]],
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page as HTML. The arguments are those of `inspection_text`."""
    body = [
        _header(title, facts),
        _cards(facts),
        _section("Checks", _checks(facts)),
        _section("Tokens", _amounts(facts["tasks"])),
        _section("Lengths in tokens", _lengths(facts["tasks"])),
        _section("Padding in computed batches", _padding(facts["padding"])),
        _section("Rows left out or repeated", _left_out(facts["splits"])),
        _section("Rationales", _rationales(facts["rationales"])),
        *(_section(f"Classes of {one['split']}", _classes(one, names)) for one in facts["classes"]),
        _section("Near-duplicates", _near(facts["near_duplicates"], facts["splits"])),
        _section("Length of the run", _pairs(length_rows(facts["length"]))),
        _section("Samples", "".join(map(_sample, samples)), "long"),
        f"<footer>medray data inspect, written {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}</footer>",
    ]
    return _page(f"{title}: what the model will see", "\n".join(part for part in body if part))


def _page(title: str, body: str) -> str:
    folder = files("medray.report")
    text = folder.joinpath("report_template.html").read_text("utf-8")
    own = folder.joinpath("inspection_page.css").read_text("utf-8")
    text = text.replace("</style>", f"{own}</style>", 1)
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(text).substitute(style_hash=f"sha256-{digest}", title=escape(title), body=body)


def _header(title: str, facts: Mapping[str, Any]) -> str:
    worst = min((check["verdict"] for check in facts["checks"]), key=list(_PILLS).index, default="ok")
    kind, said = _PILLS[worst]
    sampled = ", ".join(f"{count:,} {split} rows" for split, count in facts["sampled"].items())
    line = f"{facts['architecture']} model · texts were checked in a random sample of {sampled}"
    return (
        f'<header><h1>{escape(title)}</h1><span class="pill {kind}">{said}</span>'
        f'<p class="facts">{escape(line)}</p></header>'
    )


def _cards(facts: Mapping[str, Any]) -> str:
    length = facts["length"]
    padding = {one["name"]: one["share"] for one in facts["padding"]}
    cards = [
        ("training rows", number(length["rows"]), f"{number(length['steps_per_epoch'])} steps per epoch"),
        ("tokens per epoch", number(length["tokens"]), f"{number(length['loss_tokens'])} with loss"),
        ("the run", f"{number(length['steps'])} steps", f"{length['epochs']:.3g} epochs"),
        ("padding", percent(padding["plan"]), f"{percent(padding['random'])} in random order"),
    ]
    made = "".join(
        f'<div class="card"><div class="what">{escape(what)}</div><div class="big">{escape(big)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for what, big, note in cards
    )
    return f'<div class="cards">{made}</div>'


def _section(title: str, content: str, kind: str = "") -> str:
    opened = f'<section class="{kind}">' if kind else "<section>"
    return f"{opened}<h2>{escape(title)}</h2>{content}</section>" if content else ""


def _checks(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            _cell(f'<span class="verdict {one["verdict"]}">{one["verdict"]}</span>'),
            _text(one["name"], "key"),
            _text(one["said"], "value"),
        ]
        for one in facts["checks"]
    ]
    return _table([], rows)


def _amounts(tasks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _text(one["split"]),
            _text(one["task"]),
            *(_text(f"{one[key]:,}", "n") for key in ("rows", "without", "tokens", "loss_tokens")),
            _text(percent(one["loss_tokens"] / max(one["tokens"], 1)), "n"),
        ]
        for one in tasks
    ]
    return _table(
        _names("split", "task") + _numbers("rows", "without task", "tokens", "with loss", "share"), rows
    )


def _lengths(tasks: Sequence[Mapping[str, Any]]) -> str:
    keys = ("p50", "p90", "p99", "max")
    rows = []
    for one in tasks:
        cut = percent(one["truncated"] / max(one["rows"] + one["without"], 1))
        rows.append(
            [
                _text(one["split"]),
                _text(one["task"]),
                *(_text(f"{one[key]:,.0f}", "n") for key in keys),
                _text(f"{one['truncated']:,} ({cut})", "n"),
                _cell(_histogram(one["histogram"], one["bin_tokens"]), "n"),
            ]
        )
    return _table(_names("split", "task") + _numbers(*keys, "cut to fit", "from 1 to max"), rows)


def _histogram(counts: Sequence[int], bin_tokens: int) -> str:
    most, wide, high = max(counts, default=0), 9, 34
    if not most:
        return ""
    marks = []
    for place, count in enumerate(counts):
        tall = high * count / most
        title = f"{place * bin_tokens + 1:,} to {(place + 1) * bin_tokens:,} tokens: {count:,} rows"
        marks.append(
            f'<rect class="bar s0" x="{place * wide}" y="{high - tall:.1f}" width="{wide - 1}" height="{tall:.1f}">'
            f"<title>{title}</title></rect>"
        )
    size = f'viewBox="0 0 {wide * len(counts)} {high}" width="{wide * len(counts)}" height="{high}"'
    return f'<svg class="histogram" {size} role="img" aria-label="rows by length">{"".join(marks)}</svg>'


def _padding(found: Sequence[Mapping[str, Any]]) -> str:
    rows = padding_rows(found)
    chart = bars([(name, share, percent(share)) for name, share, _ in rows], width=1000)
    return chart + "".join(f'<p class="hint">{escape(name)}: {escape(how)}</p>' for name, _, how in rows)


def _left_out(splits: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [_text(split), _text(what, "value"), _text(count, "n"), _text(where, "value")]
        for split, what, count, where in left_out_rows(splits)
    ]
    head = [*_names("split", "what"), *_numbers("rows"), *_names("first examples")]
    return _table(head, rows) if rows else '<p class="hint">nothing</p>'


def _rationales(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _text(one["split"]),
            _text(percent(one["empty"]), "n"),
            _text(f"{one['words']:.1f}", "n"),
            _text(percent(one["overlap"]), "n"),
        ]
        for one in found
    ]
    head = _names("split") + _numbers("without rationale", "mean words", "label words found in it")
    return _table(head, rows) if rows else ""


def _classes(one: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> str:
    total = sum(one["rows"])
    shown = names.get(one["split"]) or [f"class {place}" for place in range(1, len(one["rows"]) + 1)]
    chart = bars(
        [
            (plain(name).replace("\n", " ")[:20], count / total, f"{percent(count / total)}")
            for name, count in zip(shown, one["rows"], strict=True)
        ],
        width=1000,
    )
    hint = f"Always predicting the most frequent class is right for {percent(one['majority'])} of the rows."
    if one["unseen"]:
        hint += f" {one['unseen']:,} rows have a class that is not in the training split."
    return f'{chart}<p class="hint">{escape(hint)}</p>'


def _near(near: Mapping[str, Any] | None, splits: Sequence[Mapping[str, Any]]) -> str:
    if near is None:
        return ""
    rows = [
        [_text(plain(one["train"])), _text(plain(one["validation"])), _text(f"{one['similarity']:.2f}", "n")]
        for one in near["pairs"]
    ]
    pairs = _table(_names("training", "validation") + _numbers("similarity"), rows) if rows else ""
    return _pairs(near_rows(near, splits)) + pairs


def _sample(sample: Mapping[str, Any]) -> str:
    parts = [f'<div class="row"><h3>{escape(plain(sample["id"]))} of {escape(sample["split"])}</h3>']
    for task in sample["tasks"]:
        pieces = [piece for _, part in task["parts"] for piece in part]
        loss = sum(piece["loss"] for piece in pieces)
        cut = ", cut to fit" if task["cut"] else ""
        parts.append(
            f'<p class="task">{escape(task["task"])}: {len(pieces):,} tokens, {loss:,} with loss{cut}</p>'
        )
        for name, part in task["parts"]:
            if len(task["parts"]) > 1:
                parts.append(f'<p class="task">{escape(name)}</p>')
            runs = (
                (carries, "".join(map(_token, run)))
                for carries, run in groupby(part, lambda one: one["loss"])
            )
            parts.append(
                f'<p class="tokens">{"".join(f"<b>{run}</b>" if loss else run for loss, run in runs)}</p>'
            )
    return "".join([*parts, "</div>"])


def _token(piece: Mapping[str, Any]) -> str:
    if not piece["text"]:
        return ""
    kind = ' class="special"' if piece["special"] else ""
    return f'<span{kind} title="{piece["number"]}">{escape(plain(piece["text"]))}</span>'


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    return _table([], [[_text(key, "key"), _text(value, "value")] for key, value in rows])


def _names(*titles: str) -> list[tuple[str, str]]:
    return [(title, "") for title in titles]


def _numbers(*titles: str) -> list[tuple[str, str]]:
    return [(title, "n") for title in titles]


def _table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th class="{kind}">{title}</th>' if kind else f"<th>{title}</th>" for title, kind in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<tr>{top}</tr>" if top else ""}{body}</table></div>'


def _text(text: str, kind: str = "") -> str:
    return _cell(escape(text), kind)


def _cell(html: str, kind: str = "") -> str:
    return f'<td class="{kind}">{html}</td>' if kind else f"<td>{html}</td>"
