"""Findings of a clinical answer with their assertion: which ones it states, and whether as present or absent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from medray.evaluate.assertion import assertion
from medray.evaluate.metrics.measured import Measured, micro_f1, typed_classes
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import comparable, is_whole, lower, normalised


def entity_f1(rows: Rows, settings: Settings) -> Measured:
    """Compare the sets of (lower-case text, assertion) of each row; hits and misses are summed over rows before dividing.

    The entities of a prediction are found with a dictionary: every distinct entity text of all given references. So an
    invented finding that no reference names is not counted, and scores are comparable only over the same references. A
    finding that a prediction both affirms and denies counts twice, and at most one of the two is right. The classes are
    the types of the references' entities if they have types, else the two assertions.
    """
    references = rows.truths
    wanted = [
        None
        if reference.entities is None
        else {(_surface(entity.text), entity.assertion) for entity in reference.entities}
        for reference in references
    ]
    if None in wanted:
        raise MetricError(
            f"entity_f1 needs entities in every reference, but {wanted.count(None)} of {len(wanted)} rows have none "
            f"(the first is row {wanted.index(None) + 1})",
            "annotate them, or use an empty list for a row without a finding",
        )
    surfaces = sorted({text for row in wanted for text, _ in row or ()}, key=lambda text: (-len(text), text))
    if not surfaces:
        raise MetricError(
            f"entity_f1 has nothing to compare: none of the {len(wanted)} references names an entity",
            "annotate the findings of the references, or remove the metric",
        )
    types = {
        _surface(entity.text): entity.type for reference in references for entity in reference.entities or ()
    }
    typed = all(types.values())
    counts, tables = [], [Counter[str]() for _ in range(3)]
    for text, want in zip(rows.said, wanted, strict=True):
        prediction = comparable(text)
        have: set[tuple[str, str]] = {
            (surface, assertion(prediction, *span)) for surface, span in _matches(prediction, surfaces)
        }
        want = want or set()
        hits = have & want
        counts.append([len(hits), len(have), len(want)])
        for table, items in zip(tables, (want, have, hits), strict=True):
            table.update(types[surface] if typed else asserted for surface, asserted in items)
    return micro_f1("entity", counts, classes=typed_classes(*tables))


def _matches(text: str, surfaces: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the spans of `surfaces`, given longest first, at word boundaries of `text`. Spans do not overlap."""
    open_text = re.sub(r"\s", " ", lower(text))  # positions are the same as in `text`
    for surface in surfaces:
        begin = open_text.find(surface)
        while begin >= 0:
            end = begin + len(surface)
            if is_whole(open_text, begin, end):
                yield surface, (begin, end)
                open_text = f"{open_text[:begin]}{chr(0) * len(surface)}{open_text[end:]}"
            begin = open_text.find(surface, begin + 1)


def _surface(text: str) -> str:
    bare = comparable(text)
    return " ".join(lower(bare if bare.strip() else normalised(text)).split())
