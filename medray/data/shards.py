"""Token shards: immutable Parquet files of contiguous rows, written atomically.

Columns: `id`; for each task `<task>.input_ids`, `<task>.labels`, `<task>.length`, `<task>.loss_tokens`, `<task>.cut`; for
validation also `reference` (the label as text) and `entities` (JSON), the truth that predictions are compared with.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medray.data.encode import IGNORED, Example
from medray.data.records import Distill
from medray.errors import RunFailedError

FAILED = "failed.json"


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:06d}.parquet"


def write_shard(
    folder: Path,
    index: int,
    records: Sequence[Distill],
    examples: Mapping[str, Sequence[Example]],
    *,
    truth: bool,
) -> None:
    """Writes shard `index`; a reader sees the whole file or none. truth: keep the reference text and entities."""
    columns: dict[str, pa.Array] = {"id": pa.array([record.id for record in records], pa.string())}
    for task, rows in examples.items():
        columns[f"{task}.input_ids"] = pa.array([row.input_ids for row in rows], pa.list_(pa.int32()))
        columns[f"{task}.labels"] = pa.array([row.labels for row in rows], pa.list_(pa.int32()))
        columns[f"{task}.length"] = pa.array([_length(row) for row in rows], pa.int32())
        columns[f"{task}.loss_tokens"] = pa.array([row.loss_tokens for row in rows], pa.int32())
        columns[f"{task}.cut"] = pa.array([row.input_cut or row.target_cut for row in rows], pa.bool_())
    if truth:
        columns["reference"] = pa.array([record.label for record in records], pa.string())
        entities = [
            None if record.entities is None else json.dumps(list(record.entities)) for record in records
        ]
        columns["entities"] = pa.array(entities, pa.string())
    descriptor, staging = tempfile.mkstemp(prefix=f".shard-{index:06d}-", dir=folder)
    os.close(descriptor)
    pq.write_table(pa.table(columns), staging, compression="zstd", row_group_size=1024)
    os.replace(staging, shard_path(folder, index))


def _length(example: Example) -> int:
    """Tokens that a forward of this example computes: of a causal one the sequence, else source and target."""
    # Labels of a causal example begin with its prompt; those of a seq2seq one are the target, and may be as many.
    one_sequence = example.labels[:1] == [IGNORED]
    return len(example.input_ids) + (0 if one_sequence else len(example.labels))


class ShardStore:
    """Reads shards of one folder, keeping the last few in memory. Safe to use from two threads."""

    def __init__(self, folder: Path, keep: int = 16) -> None:
        self.folder, self._keep = folder, keep
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = Lock()

    def has(self, index: int) -> bool:
        return index in self._tables or shard_path(self.folder, index).exists()

    def table(self, index: int) -> pa.Table:
        """Shard `index`, waited for if it is not there yet."""
        self.wait(index)
        with self._lock:
            if index not in self._tables:
                self._tables[index] = pq.read_table(shard_path(self.folder, index)).combine_chunks()
                if len(self._tables) > self._keep:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(index)
            return self._tables[index]

    def example(self, index: int, row: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        """(input_ids [length], labels [length]), int32."""
        table = self.table(index)
        return tuple(
            table.column(f"{task}.{name}").chunk(0)[row].values.to_numpy(zero_copy_only=False)
            for name in ("input_ids", "labels")
        )

    def counts(self, index: int, task: str, name: str) -> np.ndarray:
        """Column `<task>.<name>` (length or loss_tokens) of every row of a shard, int32 [rows]."""
        return self.table(index).column(f"{task}.{name}").chunk(0).to_numpy()

    def text(self, index: int, row: int, name: str) -> str | None:
        """Column `name` (id, reference or entities) of one row."""
        return self.table(index).column(name).chunk(0)[row].as_py()

    def wait(self, index: int, poll_seconds: float = 0.1) -> None:
        """Returns when shard `index` has been written. Raises RunFailedError when the pipeline has failed."""
        while not self.has(index):
            if (self.folder / FAILED).exists():
                reason = json.loads((self.folder / FAILED).read_text())["reason"]
                raise RunFailedError(f"the data pipeline failed: {reason}")
            time.sleep(poll_seconds)
