"""Preference pairs from a review by `medray judge`: answers that were finally judged wrong are rejected.

The items of the review are found by their id among the records of a config, so the prompt of a pair is that of
training and the chosen answer is the record's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.render import reference
from medray.data.index.row_index import records
from medray.data.index.sources import Source
from medray.data.records import BadRowError
from medray.errors import InputError
from medray.evaluate.judge.rows import Row, read_rows
from medray.pairs.build import Pair, PairCounts, pair_row, same_text

JUDGED = "judged"
WRONG = ("incorrect", "partially_correct")


def read_judged(folder: Path) -> dict[str, Row]:
    """Return the items that were finally judged wrong, by their id. Raises InputError if there are none."""
    found = {row.item.id: row for row in read_rows(folder) if row.verdict in WRONG}
    if not found:
        raise InputError(
            "no item of this review is finally incorrect or partially correct",
            file=folder,
            key="--from-judged",
            fix="decide the disputed items with `medray judge review`, or judge other answers",
        )
    return found


def judged_pairs(
    sources: Sequence[Source], spec: EncodeSpec, judged: dict[str, Row], counts: PairCounts
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pairs file, in the order of the sources; updates `counts`.

    A row has the keys of `build.pairs` without a seed, and `verdict` and `path` (judges or person). A record that was
    not judged wrong, or has no answer of its own, is counted in `without_pair`.
    """
    for source in sources:
        for _, _, _, record in records(source):
            if isinstance(record, BadRowError):
                counts.bad_rows += 1
                continue
            counts.records += 1
            row, gold = judged.get(record.origin.id), reference(record, spec)
            wrong = row.item.answer if row is not None else ""
            if row is None or not gold.strip() or same_text(wrong) in ("", same_text(gold)):
                counts.without_pair += 1
                continue
            counts.by_strategy[JUDGED] += 1
            counts.length_ratios += len(wrong) / len(gold)
            yield pair_row(record, Pair(gold, wrong, JUDGED), spec) | {
                "source": source.name,
                "verdict": row.verdict,
                "path": row.to_json()["path"],
            }
