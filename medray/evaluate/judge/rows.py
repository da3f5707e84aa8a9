"""The rows of a review: items with the verdicts of both judges and of people, their state, and the figures over all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medray import storage
from medray.errors import InputError
from medray.evaluate.judge.items import Item
from medray.evaluate.judge.state import Judged, State
from medray.evaluate.judge.verdicts import WORDS

FILE = "results.jsonl"
RowState = Literal["pending", "agreed", "disputed", "resolved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An item and what was said of it.

    verdicts, reasons: of the judges, by their names, in the order of the config; a judge that has not answered is absent,
    and one whose replies were not readable has the verdict None. human_verdict: None until a person has decided.
    """

    item: Item
    content: str
    judges: tuple[str, ...]
    verdicts: Mapping[str, str | None]
    reasons: Mapping[str, str]
    human_verdict: str | None = None
    note: str = ""

    @property
    def state(self) -> RowState:
        """Return pending (a judge has not answered), agreed, disputed, or resolved (disputed, and a person decided)."""
        if len(self.verdicts) < len(self.judges):
            return "pending"
        first, second = (self.verdicts[judge] for judge in self.judges)
        if first is not None and first == second:
            return "agreed"
        return "disputed" if self.human_verdict is None else "resolved"

    @property
    def verdict(self) -> str | None:
        """Return the final verdict, None if there is none yet."""
        state = self.state
        if state == "agreed":
            return self.verdicts[self.judges[0]]
        return self.human_verdict if state == "resolved" else None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.item.id,
            "state": self.state,
            "verdict": self.verdict,
            "path": {"agreed": "judges", "resolved": "person"}.get(self.state),
            "human_verdict": self.human_verdict,
            "note": self.note,
            "verdicts": dict(self.verdicts),
            "reasons": dict(self.reasons),
            "judges": list(self.judges),
            "item": asdict(self.item),
            "content": self.content,
        }


def row_of(item: Item, judged: Mapping[str, Judged | None], state: State) -> Row:
    """Return the row of an item. judged: verdicts by judge; None if a judge has not answered."""
    decided = state.decided.get((item.id, item.content))
    there = {judge: one for judge, one in judged.items() if one is not None}
    return Row(
        item=item,
        content=item.content,
        judges=tuple(judged),
        verdicts={judge: one.verdict for judge, one in there.items()},
        reasons={judge: one.reason for judge, one in there.items()},
        human_verdict=decided.human_verdict if decided else None,
        note=decided.note if decided else "",
    )


def with_decisions(rows: Sequence[Row], state: State) -> list[Row]:
    """Return the rows with the newest decisions of people."""
    found = []
    for row in rows:
        decided = state.decided.get((row.item.id, row.content))
        found.append(replace(row, human_verdict=decided.human_verdict, note=decided.note) if decided else row)
    return found


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    lines = (json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)
    storage.write(folder / FILE, "".join(lines).encode("utf-8", "surrogatepass"))


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of an earlier start. Raises InputError if the folder has none, or a file that medray did not write."""
    path = folder / FILE
    fix = "name the folder of a finished `medray judge`, or one of its queue files"
    try:
        with open(path, "rb") as stream:
            return [_row(json.loads(line)) for line in stream if line.strip()]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("is not a folder of `medray judge`", file=folder, fix=fix) from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            "is not readable", file=path, fix="run `medray judge` again: it is rebuilt"
        ) from None


def _row(found: Any) -> Row:
    return Row(
        item=Item(**found["item"]),
        content=str(found["content"]),
        judges=tuple(map(str, found["judges"])),
        verdicts=dict(found["verdicts"]),
        reasons=dict(found["reasons"]),
        human_verdict=found["human_verdict"],
        note=str(found["note"]),
    )


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Cohen's kappa of two raters (Cohen 1960, "A coefficient of agreement for nominal scales").

    kappa = (p_o - p_e) / (1 - p_e), where p_o is the share of equal verdicts and p_e the share expected if the raters were
    independent. None without verdicts, and if both raters always use one and the same word.
    """
    if not first:
        return None
    total = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / total
    ones, twos = Counter(first), Counter(second)
    expected = sum(ones[word] * twos[word] for word in ones) / total**2
    return None if expected == 1.0 else (observed - expected) / (1.0 - expected)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Return counts, agreement, kappa, the share that people decided, and accuracy by path, as JSON values."""
    states = Counter(row.state for row in rows)
    judged = [row for row in rows if row.state != "pending"]
    pairs = [
        tuple(row.verdicts[judge] for judge in row.judges)
        for row in judged
        if all(row.verdicts[judge] is not None for judge in row.judges)
    ]
    final = states["agreed"] + states["resolved"]
    judges = rows[0].judges if rows else ()
    return {
        "items": len(rows),
        "states": {state: states[state] for state in ("pending", "agreed", "disputed", "resolved")},
        "agreement_rate": _share(states["agreed"], len(judged)),
        "kappa": kappa([str(pair[0]) for pair in pairs], [str(pair[1]) for pair in pairs]),
        "decided_by_people": _share(states["resolved"], final),
        "judges": {
            judge: {
                **Counter(str(row.verdicts[judge]) for row in rows if row.verdicts.get(judge)),
                "unreadable": sum(judge in row.verdicts and row.verdicts[judge] is None for row in rows),
            }
            for judge in judges
        },
        "paths": {
            "judges": _path([row for row in rows if row.state == "agreed"]),
            "person": _path([row for row in rows if row.state == "resolved"]),
        },
        "unresolved": [row.item.id for row in rows if row.state in ("pending", "disputed")],
    }


def _path(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the verdicts of a path, and how often they are right: equal to gold_verdict, or `correct` where gold is."""
    known = [row for row in rows if row.item.expected is not None]
    right = sum(
        row.verdict == row.item.expected
        if row.item.exact
        else (row.verdict == "correct") == (row.item.expected == "correct")
        for row in known
    )
    counts = Counter(row.verdict for row in rows)
    return {
        "items": len(rows),
        **{word: counts[word] for word in WORDS},
        "with_gold": len(known),
        "accuracy": _share(right, len(known)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
