"""What a finished split holds: rows, tokens, loss tokens and lengths, a task each."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from medray import storage
from medray.data.shard_seal import MANIFEST
from medray.data.shards import shard_path, shard_table
from medray.data.tokens import TokenSet
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.storage.json_files import is_count, is_number

_NUMBERS = ("rows", "tokens", "loss_tokens", "p50", "p90", "p99", "max", "truncated")


def summarize(token_set: TokenSet) -> dict[str, Any]:
    """Counts of a split whose shards are all written; lengths in tokens."""
    index, folder = token_set.index, storage.at(token_set.folder)
    files = [shard_path(folder, shard.index) for shard in index.shards]
    return {
        "rows": index.rows,
        "rejected": index.rejected,
        "dropped": index.dropped,
        "duplicates": index.duplicates,
        "repeated_ids": index.repeated_ids,
        "shards": len(files),
        "tasks": {task: _task(files, task) for task in token_set.spec.tasks},
    }


def read_manifest(folder: StoragePath) -> dict[str, Any] | None:
    """Return what a split holds, as `summarize` wrote it; None where its shards are not complete, or the file is damaged."""
    with suppress(FileNotFoundError, InputError):
        found = json_files.read_sealed(folder / MANIFEST)
        return found if _is_summary(found) else None
    return None


def _is_summary(tree: dict[str, Any]) -> bool:
    """Whether a JSON object is what `summarize` writes."""
    counts = [tree.get(name) for name in ("rows", "rejected", "duplicates", "repeated_ids", "shards")]
    dropped, tasks = tree.get("dropped"), tree.get("tasks")
    if not isinstance(dropped, dict) or not isinstance(tasks, dict):
        return False
    numbers = [
        task.get(name) if isinstance(task, dict) else None for task in tasks.values() for name in _NUMBERS
    ]
    return all(map(is_count, (*counts, *dropped.values()))) and all(map(is_number, numbers))


def _task(files: list[StoragePath], task: str) -> dict[str, Any]:
    names = [f"{task}.length", f"{task}.loss_tokens", f"{task}.cut"]
    tables = [shard_table(file, names) for file in files]
    length, loss, cut = (np.concatenate([table[name].to_numpy() for table in tables]) for name in names)
    present = length[length > 0]
    percentiles = np.percentile(present, [50, 90, 99]).tolist() if len(present) else [0.0] * 3
    return {
        "rows": len(present),
        "tokens": int(length.sum()),
        "loss_tokens": int(loss.sum()),
        **dict(zip(("p50", "p90", "p99"), percentiles, strict=True)),
        "max": int(length.max(initial=0)),
        "truncated": int(cut.sum()),
    }
