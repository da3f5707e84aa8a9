"""Warnings about predictions: signs of a collapsed model, by the rules of `medray eval`, and ids that occur twice."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

from medray.data.reasoning import CLOSE, answer_only
from medray.evaluate.scoring import collapse

SAMPLE_ROWS = 10_000  # rows that are read, from the first


def warnings(file: Path) -> list[str]:
    """Return a sentence about each sign in a file of predictions. No sentence has text of a row."""
    with file.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in islice(stream, SAMPLE_ROWS)]
    answers = []
    for row in rows:
        wanted = row.get("reference")
        wanted = None if wanted is None else answer_only(wanted)
        answers.append(
            collapse.Answer(
                prompt=row.get("prompt", ""),
                reference=wanted,
                prediction=answer_only(row["prediction"], opened=wanted is None or CLOSE not in wanted),
                ended=collapse.ENDED.get(row.get("finish")),
            )
        )
    found = [each["text"] for each in collapse.warnings(answers)]
    repeated = sum(count > 1 for count in Counter(row["id"] for row in rows).values())
    if repeated:
        found.append(
            f"{repeated:,} ids of the first {len(rows):,} rows occur more than once: medray eval and medray judge need one row "
            "per id. Correct data.columns.id or the ids of the input"
        )
    return found
