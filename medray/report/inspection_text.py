"""The terminal output of `medray data inspect`: tables of at most 100 columns, and sample rows with their loss mask.

It takes plain values: an inspection as JSON, and rows as lists of tokens. Text of records may contain control characters;
none of them reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medray.report.inspection_rows import (
    left_out_rows,
    length_rows,
    near_rows,
    padding_rows,
    percent,
    plain,
)

WIDTH = 100
_BAR = 30
_SHORT_NAME = 28


@dataclass(frozen=True)
class Look:
    """The abilities of a terminal. colour: it shows ANSI colours. blocks: it shows characters beyond ASCII."""

    colour: bool = False
    blocks: bool = True

    def paint(self, text: str, *codes: int) -> str:
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if self.colour and text else text

    def bar(self, share: float) -> str:
        filled = round(_BAR * min(share, 1.0))
        return ("█" if self.blocks else "#") * filled + ("·" if self.blocks else ".") * (_BAR - filled)

    def histogram(self, counts: Sequence[int]) -> str:
        steps = "▁▂▃▄▅▆▇█" if self.blocks else ".:-=+*#@"
        most = max(counts, default=0)
        return "".join(steps[-(-count * 7 // most)] if count else " " for count in counts)


def inspection_text(
    title: str,
    facts: Mapping[str, Any],
    *,
    names: Mapping[str, Sequence[str]],
    samples: Sequence[Mapping[str, Any]],
    look: Look,
) -> str:
    """Return the report of an inspection as text for a terminal.

    facts: as from `Inspection.to_json`. names: the names of each split's classes; empty if they must not be shown.
    samples: as `Sample`; empty if no text may be shown.
    """
    parts = [
        [look.paint(f"{title}: what the model will see", 1)],
        [f"{facts['architecture']} model; texts were checked in a random sample of {_sampled(facts)}"],
        *([_heading(look, "Samples"), *_samples(samples, look)] if samples else []),
        _heading(look, "Checks"),
        _checks(facts["checks"], look),
        _heading(look, "Rows and tokens"),
        _amounts(facts["tasks"]),
        _heading(look, "Lengths in tokens"),
        _lengths(facts["tasks"], look),
        _heading(look, "Rows left out or repeated"),
        _left_out(facts["splits"]),
        _heading(look, "Padding in computed batches"),
        _padding(facts["padding"], look),
        *_rationales(facts["rationales"], look),
        *_classes(facts["classes"], names, look),
        *_near(facts["near_duplicates"], facts["splits"], look),
        _heading(look, "Length of the run"),
        _length(facts["length"]),
    ]
    return "\n".join(line.rstrip() for part in parts for line in part) + "\n"


def _sampled(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {split} rows" for split, count in facts["sampled"].items())


def _heading(look: Look, text: str) -> list[str]:
    return ["", look.paint(text, 1)]


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), *, head: bool = True) -> list[str]:
    """Align columns to their widest cell. A last column that does not fit is continued on the next line."""
    if len(rows) == head:
        return ["  none"]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(widths[i]) if i in right else c.ljust(widths[i]) for i, c in enumerate(row)]
        start = "  " + "  ".join(cells[:-1]) + ("  " if len(cells) > 1 else "")
        first, *rest = list(
            _folded(cells[-1].rstrip() if len(row) - 1 not in right else cells[-1], len(start))
        )
        lines += [start + first, *(" " * len(start) + line for line in rest)]
    return lines


def _folded(text: str, used: int) -> Iterator[str]:
    room = max(WIDTH - used, 20)
    while len(text) > room:
        at = text.rfind(" ", 1, room + 1)
        at = room if at < 1 else at
        yield text[:at]
        text = text[at:].lstrip()
    yield text


def _checks(found: Sequence[Mapping[str, str]], look: Look) -> list[str]:
    lines = _table([(one["verdict"], one["name"], one["said"]) for one in found], head=False)
    codes = {"problem": (1, 31), "note": (33,), "ok": (32,)}
    return [
        line.replace(verdict, look.paint(verdict, *code), 1)
        for line in lines
        for verdict, code in [next(((v, c) for v, c in codes.items() if line[2:].startswith(v)), ("", (0,)))]
    ]


def _amounts(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("split", "task", "rows", "without task", "tokens", "with loss", "share")]
    rows += [
        (
            one["split"],
            one["task"],
            *(f"{one[key]:,}" for key in ("rows", "without", "tokens", "loss_tokens")),
            percent(one["loss_tokens"] / max(one["tokens"], 1)),
        )
        for one in tasks
    ]
    return _table(rows, range(2, 7))


def _lengths(tasks: Sequence[Mapping[str, Any]], look: Look) -> list[str]:
    rows = [("split", "task", "p50", "p90", "p99", "max", "cut", "", "from 1 to max")]
    rows += [
        (
            one["split"],
            one["task"],
            *(f"{one[key]:,.0f}" for key in ("p50", "p90", "p99", "max")),
            f"{one['truncated']:,}",
            f"({percent(one['truncated'] / max(one['rows'] + one['without'], 1))})",
            look.histogram(one["histogram"]),
        )
        for one in tasks
    ]
    return _table(rows, range(2, 8))


def _left_out(splits: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (split, count, f"{what}  ({where})" if where else what)
        for split, what, count, where in left_out_rows(splits)
    ]
    return _table(rows, (1,), head=False) if rows else ["  nothing"]


def _padding(found: Sequence[Mapping[str, Any]], look: Look) -> list[str]:
    rows = [(name, percent(share), look.bar(share), how) for name, share, how in padding_rows(found)]
    return _table(rows, (1,), head=False)


def _rationales(found: Sequence[Mapping[str, Any]], look: Look) -> list[list[str]]:
    if not found:
        return []
    rows = [("split", "without rationale", "mean words", "label words found in it")]
    rows += [
        (one["split"], percent(one["empty"]), f"{one['words']:.1f}", percent(one["overlap"])) for one in found
    ]
    return [_heading(look, "Rationales"), _table(rows, (1, 2, 3))]


def _classes(
    found: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]], look: Look
) -> list[list[str]]:
    parts = []
    for one in found:
        shown = names.get(one["split"]) or [f"class {n}" for n in range(1, len(one["rows"]) + 1)]
        total = sum(one["rows"])
        rows = [
            (
                plain(name).replace("\n", " ")[:_SHORT_NAME],
                f"{count:,}",
                percent(count / total),
                look.bar(count / total),
            )
            for name, count in zip(shown, one["rows"], strict=True)
        ]
        notes = [
            f"  always predicting the most frequent class is right for {percent(one['majority'])} of the rows"
        ]
        if one["unseen"]:
            notes.append(f"  {one['unseen']:,} rows have a class that is not in the training split")
        parts += [_heading(look, f"Classes of {one['split']}"), _table(rows, (1, 2), head=False), notes]
    return parts


def _near(near: Mapping[str, Any] | None, splits: Sequence[Mapping[str, Any]], look: Look) -> list[list[str]]:
    if near is None:
        return []
    pairs = [("training", "validation", "similarity")]
    pairs += [(one["train"], one["validation"], f"{one['similarity']:.2f}") for one in near["pairs"]]
    shown = _table([tuple(plain(cell) for cell in row) for row in pairs], (2,)) if near["pairs"] else []
    return [_heading(look, "Near-duplicates"), _table(near_rows(near, splits), head=False), shown]


def _length(length: Mapping[str, Any]) -> list[str]:
    return _table(length_rows(length), head=False)


def _samples(samples: Sequence[Mapping[str, Any]], look: Look) -> Iterator[list[str]]:
    open_mark, close_mark = ("⟦", "⟧") if look.blocks else ("[[", "]]")
    legend = (
        f"{look.paint('prompt', 2)}, {look.paint('with loss', 1, 32)}, {look.paint('control token', 36)}"
        if look.colour
        else f"{open_mark}tokens with loss{close_mark}"
    )
    yield [f"  {legend}"]
    for sample in samples:
        yield ["", "  " + look.paint(f"{plain(sample['id'])} of {sample['split']}", 1)]
        for task in sample["tasks"]:
            pieces = [piece for _, part in task["parts"] for piece in part]
            loss = sum(piece["loss"] for piece in pieces)
            cut = ", cut to fit" if task["cut"] else ""
            yield [f"  {task['task']}: {len(pieces):,} tokens, {loss:,} with loss{cut}"]
            for name, part in task["parts"]:
                if len(task["parts"]) > 1:
                    yield [f"    {name}"]
                yield _row(part, look, (open_mark, close_mark))


def _row(pieces: Sequence[Mapping[str, Any]], look: Look, marks: tuple[str, str]) -> list[str]:
    """Return lines of at most WIDTH columns, broken between tokens."""
    indent, lines, line, used = "      ", [], "", 6
    inside = False

    def put(text: str, *codes: int) -> None:
        nonlocal line, used
        for place, part in enumerate(text.split("\n")):
            if place or (used + len(part) > WIDTH - len(marks[1]) and used > len(indent)):
                lines.append(indent + line)
                line, used = "", len(indent)
            line, used = line + look.paint(part, *codes), used + len(part)

    for piece in pieces:
        if not look.colour and piece["loss"] != inside:
            line, inside = line + (marks[0] if piece["loss"] else marks[1]), piece["loss"]
        codes = (1, 32) if piece["loss"] else (36,) if piece["special"] else (2,)
        put(plain(piece["text"]) if look.blocks else plain(piece["text"]).replace("↵", ""), *codes)
    return [*lines, indent + line + (marks[1] if inside else "")]
