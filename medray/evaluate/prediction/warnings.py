"""Signs of a model that has collapsed, in its predictions, by the rules of `medray eval`."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from medray.data.reasoning import CLOSE, answer_only
from medray.evaluate.scoring import collapse

SAMPLE_ROWS = 10_000  # rows that are read, from the first


def warnings(file: Path) -> list[str]:
    """Return the sentences of `collapse.warnings` about a file of predictions. No sentence has text of a row."""
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
    return [each["text"] for each in collapse.warnings(answers)]
