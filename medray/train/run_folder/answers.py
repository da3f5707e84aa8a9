"""The answers that a run generated for its validation split, with their references."""

from __future__ import annotations

import json
from typing import Any

from medray.errors import InputError
from medray.storage import StoragePath
from medray.storage.json_files import read_lines
from medray.train.run_folder.finished_run import token_folder

PREDICTIONS = "predictions.jsonl"


def run_answers(folder: StoragePath) -> list[dict[str, Any]]:
    """Return the rows of a run's predictions.jsonl, with `reference` and `entities` from its token shards.

    The file has references only where tracking.show_text is true; the shards have them while they are there. Raises
    InputError if the run has no predictions, or if neither has the references.
    """
    file = folder / PREDICTIONS
    try:
        lines = read_lines(file)
    except FileNotFoundError:
        raise InputError(
            "the run has no predictions of its validation split: it is not finished, has no such split, or "
            "eval.generation.rows is 0",
            file=folder,
            fix="write predictions with `medray predict`, and score that file",
        ) from None
    rows = [row for row in lines.records if isinstance(row.get("prediction"), str)]
    if lines.unreadable or len(rows) < len(lines.records) or not rows:
        raise InputError(
            f"{lines.unreadable + len(lines.records) - len(rows)} lines are damaged",
            file=file,
            fix="run `medray train` with the run's config and --overwrite, or restore the file",
        )
    truths = _truths(folder, len(rows))
    if truths is None:
        return rows
    return [row | truths.get(str(row.get("id")), {}) for row in rows]


def _truths(run: StoragePath, count: int) -> dict[str, dict[str, Any]] | None:
    """Return {id: {reference, entities}} of at least the first `count` validation rows; None if the shards are gone."""
    tokens = token_folder(run)
    if tokens is None or not (tokens / "validation" / "index.json").exists():
        return None
    from medray.data.index.membership import SplitIndex  # these import pyarrow
    from medray.data.shards.shard_file import shard_path, shard_table

    folder = tokens / "validation"
    found: dict[str, dict[str, Any]] = {}
    for shard in SplitIndex.read(folder / "index.json").shards:
        if len(found) >= count:
            break
        path = shard_path(folder, shard.index)
        if not path.exists():
            return None
        for row in shard_table(path, ["id", "reference", "entities"]).to_pylist():
            truth: dict[str, Any] = {"reference": row["reference"]}
            if row["entities"] is not None:
                truth["entities"] = json.loads(row["entities"])
            found[row["id"]] = truth
    return found
