"""What `medray data import` prints of an account: every number is one that a count of lines confirms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medray.tracking.console import Console


def show(console: Console, name: str, account: Mapping[str, Any], folder: str) -> None:
    """The table of a corpus's splits, then where rejected rows are named, what was left out, and warnings.

    folder: where it was written. A column that no split has a number for is absent.
    """
    console.table(f"{name}, written to {folder}", _table(account["splits"], "rows written"))
    if account["sources"]:
        console.table("made of", _table(account["sources"], "usable rows"))
    counted = {**account["splits"], **account["sources"]}
    for split, found in counted.items():
        if found["rejected"]:
            console.phase(
                "rejected", f"{split}: {found['rejected']:,}, each with its reason in {folder}/rejects.jsonl"
            )
    for split, found in counted.items():
        for reason, count in found["dropped"].items():
            console.phase("left out", f"{split}: {count:,}, {reason}")
    for warning in account["warnings"]:
        console.phase("warning", warning)


def _table(splits: Mapping[str, Mapping[str, Any]], rows: str) -> list[tuple[str, ...]]:
    columns = {
        "": list(splits),
        rows: [f"{found['rows']:,}" for found in splits.values()],
        "rejected": [f"{found['rejected']:,}" for found in splits.values()],
        "left out": [f"{sum(found['dropped'].values()):,}" for found in splits.values()],
        "published": [_number(found["published"]) for found in splits.values()],
        "no rationale": [_number(found["without_rationale"]) for found in splits.values()],
    }
    teachers = [found["teacher"] for found in splits.values()]
    for title, key in (
        ("label not parsed", "parse_failures_label"),
        ("rationale not parsed", "parse_failures_rationale"),
    ):
        columns[title] = [_number(teacher and teacher[key]) for teacher in teachers]
    columns["teacher is right"] = [f"{teacher['accuracy']:.2%}" if teacher else "" for teacher in teachers]
    kept = {title: cells for title, cells in columns.items() if any(cells)}
    return [tuple(kept), *zip(*kept.values(), strict=True)]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
