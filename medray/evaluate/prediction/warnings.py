"""Signs of a model that has collapsed, in its predictions."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

from medray.evaluate.prediction.part_files import Counts

SAMPLE_ROWS, FEWEST_ROWS = 10_000, 8  # rows that are compared; fewer rows say nothing
SAME_SHARE, EMPTY_SHARE, UNFINISHED_SHARE = 0.9, 0.5, 0.9


def warnings(file: Path, counts: Counts) -> list[str]:
    """Return a sentence about each sign of a collapsed model. No sentence has text of a prediction."""
    found: list[str] = []
    if counts.rows < FEWEST_ROWS:
        return found
    with file.open(encoding="utf-8") as stream:
        answers = Counter(hash(json.loads(line)["prediction"]) for line in islice(stream, SAMPLE_ROWS))
    most = answers.most_common(1)[0][1]
    if most >= SAME_SHARE * answers.total() and counts.empty < most:
        found.append(f"{most:,} of {answers.total():,} answers are the same")
    if counts.empty >= EMPTY_SHARE * counts.rows:
        found.append(f"{counts.empty:,} of {counts.rows:,} answers are empty")
    if counts.unfinished >= UNFINISHED_SHARE * counts.rows:
        found.append(
            f"{counts.unfinished:,} of {counts.rows:,} answers ended at eval.generation.max_new_tokens and not by the model"
        )
    return found
