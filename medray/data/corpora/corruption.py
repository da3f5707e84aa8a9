"""A published rationale file whose texts were damaged by one global replacement of "No" by "Negative"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# "Not" became "Negativet", "Now" "Negativew"; words that English has are left out.
_BROKEN = re.compile(r"Negative(?!s\b|d\b|ly\b|ness(es)?\b)[a-z]")


def corruption_warning(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """A sentence that says how many inputs and rationales are damaged; None where none is."""
    total = inputs = rationales = 0
    for row in rows:
        total += 1
        inputs += _is_broken(row.get("input"))
        rationales += _is_broken(row.get("rationale"))
    if not inputs + rationales:
        return None
    return (
        f'{inputs} inputs and {rationales} rationales of {total} rows hold broken words such as "Negativet": every '
        '"No" was replaced by "Negative". Take the rationale files published as set_back or those of GPT-3.5'
    )


def _is_broken(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_is_broken(each) for each in value.values())
    if isinstance(value, list):
        return any(_is_broken(each) for each in value)
    return isinstance(value, str) and _BROKEN.search(value) is not None
