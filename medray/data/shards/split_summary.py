"""The summary of a finished split of token shards: rows, tokens, loss tokens and lengths of each task."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from medray import storage
from medray.data.shards.seal import MANIFEST
from medray.data.shards.shard_file import shard_path, shard_table
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.storage.json_files import is_count, is_number

_NUMBERS = ("rows", "tokens", "loss_tokens", "p50", "p90", "p99", "max", "truncated")


def summarize(token_set: TokenSet) -> dict[str, Any]:
    """Count rows and tokens of a split whose shards are all written. Lengths are in tokens."""
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
    """Return the summary of a split as written by `summarize`; None if its shards are incomplete or the file is damaged."""
    with suppress(FileNotFoundError, InputError):
        found = json_files.read_sealed(folder / MANIFEST)
        return found if _is_summary(found) else None
    return None


def _is_summary(tree: dict[str, Any]) -> bool:
    """Return whether a JSON object has the form that `summarize` writes."""
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


_NAMES = ("length", "loss_tokens", "cut")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCounts:
    """Counts for each row of a split, in the order of shard numbers; arrays are [tasks, rows].

    length: tokens in a forward pass (source and target for an encoder-decoder), 0 if a row lacks the task. loss:
    tokens with loss. cut: bool, whether the row was cut. starts: the first row of each shard, by the number of the
    shard.
    """

    tasks: tuple[str, ...]
    length: np.ndarray
    loss: np.ndarray
    cut: np.ndarray
    starts: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.length.shape[1])

    def places(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the column indices in these arrays of rows given by shard and row number."""
        return np.asarray(self.starts[shards] + rows)


def split_counts(tokens: TokenSet) -> SplitCounts:
    """Read the counts for each row of a split whose shards are all written."""
    tasks, shards = tokens.spec.tasks, tokens.index.shards
    columns = [f"{task}.{name}" for name in _NAMES for task in tasks]
    parts: dict[str, list[np.ndarray]] = {column: [np.empty(0, np.int32)] for column in columns}
    starts = np.zeros(max((shard.index for shard in shards), default=-1) + 1, np.int64)
    first = 0
    for shard in shards:
        table = shard_table(shard_path(storage.at(tokens.folder), shard.index), columns)
        for column in columns:
            parts[column].append(table.column(column).to_numpy())
        starts[shard.index], first = first, first + shard.rows
    length, loss, cut = (
        np.stack([np.concatenate(parts[f"{task}.{name}"]) for task in tasks]) for name in _NAMES
    )
    return SplitCounts(tasks=tasks, length=length, loss=loss, cut=cut.astype(bool), starts=starts)
