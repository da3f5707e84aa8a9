"""Numbers for every row of a split, computed by one pass over the data and stored next to its token shards.

Preference training stores the log-probabilities that a frozen reference model gives to both answers of a pair. There
is one Parquet file per token shard, written completely or not at all, so that a pass that was killed resumes with the
next shard. The name of the folder is a hash of what the numbers depend on beyond the tokens, so other runs on the same
tokens find them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medray import storage
from medray.data.shards.seal import is_sound, sealed
from medray.data.shards.shard_file import shard_path, shard_table
from medray.errors import RunFailedError
from medray.storage import StoragePath

FOLDER = "values"
_KEPT = 64  # shards whose numbers stay in memory: 8 bytes per row


class RowValues:
    """Stored numbers of every row of a split: float32 columns with the given names; NaN if a row has no value."""

    def __init__(self, tokens: str, key: str, names: Sequence[str]) -> None:
        """Open the store for the shards in the folder `tokens`. key: a hash of everything that decides the numbers."""
        self.folder: StoragePath = storage.at(tokens) / FOLDER / key
        self.names = tuple(names)
        self._known: OrderedDict[int, np.ndarray] = OrderedDict()

    def has(self, shard: int) -> bool:
        """Return whether the numbers of a shard are stored and undamaged.

        A damaged file is renamed, so that it is written again.
        """
        return shard in self._known or is_sound(shard_path(self.folder, shard))

    def write(self, shard: int, values: np.ndarray) -> None:
        """Store the numbers of a shard, float32 [names, rows]. Raises OSError if the file cannot be written."""
        table = pa.table(dict(zip(self.names, map(pa.array, values.astype(np.float32)), strict=True)))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
        if isinstance(self.folder, Path):
            self.folder.mkdir(parents=True, exist_ok=True)
        storage.write(shard_path(self.folder, shard), sealed(sink.getvalue().to_pybytes()))

    def of_rows(self, rows: Sequence[tuple[int, int] | None]) -> np.ndarray:
        """Return float32 [names, rows] of rows given as (shard, row); NaN for None. Raises RunFailedError."""
        nothing = np.full(len(self.names), np.nan, np.float32)
        return np.stack([nothing if row is None else self.of(row[0])[:, row[1]] for row in rows], axis=1)

    def of(self, shard: int) -> np.ndarray:
        """Return the numbers of a shard, float32 [names, rows]. Raises RunFailedError if they are not stored."""
        found = self._known.get(shard)
        if found is None:
            path = shard_path(self.folder, shard)
            try:
                table = shard_table(path)
            except FileNotFoundError:
                raise RunFailedError(
                    f"the file {path} does not exist any more: another run removed it. Fix: run the same command again, which "
                    "computes it again"
                ) from None
            found = np.stack([table.column(name).to_numpy() for name in self.names])
            self._known[shard] = found
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found
