"""Rows of tables that the terminal output and the HTML page of an inspection share.

They are made from plain values, as in `Inspection.to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PADDING = {"random": "random order", "plan": "as configured", "packed": "packed"}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def left_out_rows(splits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return table rows (split, what, rows, where) about rejected, left out and repeated rows."""
    rows = []
    for one in splits:
        rows += [
            (
                one["split"],
                f"rejected: {reject['reason']}",
                f"{reject['rows']:,}",
                ", ".join(reject["places"]),
            )
            for reject in one["rejected"]
        ]
        rows += [
            (one["split"], f"left out: {why}", f"{count:,}", "") for why, count in one["dropped"].items()
        ]
        for key, what in (
            ("duplicates", "duplicates of an earlier row, kept"),
            ("repeated_ids", "repeated ids"),
        ):
            if one[key]:
                rows.append((one["split"], what, f"{one[key]:,}", ""))
    return rows


def padding_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Return table rows (name, share, how it was measured) about the padding of each way to make batches."""
    rows = []
    for one in found:
        how = f"micro-batches of {one['rows']}"
        if one["pack_tokens"]:
            how = f"pack_tokens: {one['pack_tokens']:,}" + (f", {how}" if one["name"] == "plan" else "")
        span = "one epoch" if one["whole_epoch"] else f"the first {one['steps']:,} steps"
        rows.append((_PADDING[one["name"]], one["share"], f"{how}, {span}"))
    return rows


def length_rows(length: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return table rows (what, value) about the length of a run."""
    rows = [
        ("training rows", f"{length['rows']:,}"),
        ("one epoch", f"{length['steps_per_epoch']:,} steps, {length['tokens']:,} tokens"),
        ("with loss", f"{length['loss_tokens']:,} tokens of one epoch"),
        (
            "the run",
            f"{length['steps']:,} steps, {length['epochs']:.4g} epoch{'' if length['epochs'] == 1 else 's'}",
        ),
    ]
    if length["passes"]:
        rows.append(
            ("passes", ", ".join(f"{passes:.2f}" for passes in length["passes"]) + " over the corpora")
        )
    return rows


def near_rows(near: Mapping[str, Any], splits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return table rows (what, value) with the numbers of near-duplicates, without the pairs."""
    every = {one["split"]: one["rows"] for one in splits}
    rows = [("similarity", f"{near['threshold']:g} or more, measured on sequences of 5 words")]
    for split, count in near["repeated"].items():
        compared = near["compared"][split]
        first = "the first " if compared < every.get(split, compared) else ""
        rows.append(
            (f"in {split}", f"{count:,} of {first}{compared:,} rows are near-duplicates of an earlier row")
        )
    if len(near["compared"]) > 1:
        rows.append(("across", f"{near['across']:,} validation rows are near-duplicates of a training row"))
    return rows


def plain(text: str) -> str:
    """Return text without control characters: line ends are marked and kept, others become visible symbols."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == "\n":
        return "↵\n"
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    # Marks that change the direction of writing would show the text in a wrong order.
    hidden = 127 <= code < 160 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return "\ufffd" if hidden else character
