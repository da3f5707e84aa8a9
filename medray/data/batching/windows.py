"""The part of a batch plan that depends on the lengths of rows: packing, length buckets, and batches by tokens.

It is computed for one window of shards at a time. The arrangement of a window depends only on its own rows, the seed
and its number, not on other windows or earlier calls. Steps are counted in **units**: packed sequences if a batch is a
number of them, else whole batches. If there is a folder, every arrangement is stored as a file, and so is the number
of units in each window of an epoch.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from typing import TypeVar

import numpy as np

from medray import storage
from medray.data.batching.order import BUCKETS, PACKING, RowOrder, by_length, generator
from medray.data.batching.packing import best_fit, cut_by_tokens
from medray.data.batching.plan_spec import PlanSpec, Sizes
from medray.storage import StoragePath

FORMAT = 2  # version of the kept files and of the arithmetic: another number uses other files


@dataclass(frozen=True)
class Arrangement:
    """The rows of one window, arranged into sequences and units; int32 arrays.

    order: [rows], indices into the window, in the order of use. sequence_ends: [sequences], cumulative number of rows.
    unit_ends: [units], cumulative number of sequences.
    """

    order: np.ndarray
    sequence_ends: np.ndarray
    unit_ends: np.ndarray

    @property
    def units(self) -> int:
        return len(self.unit_ends)

    def rows_before(self, unit: int) -> int:
        sequences = int(self.unit_ends[unit - 1]) if unit else 0
        return int(self.sequence_ends[sequences - 1]) if sequences else 0

    def part(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (row indices, sequence ends) of the units from `first` up to, but without, `last`.

        The sequence ends are counted from the first of these rows.
        """
        begin, end = self.rows_before(first), self.rows_before(last)
        sequences = slice(int(self.unit_ends[first - 1]) if first else 0, int(self.unit_ends[last - 1]))
        return self.order[begin:end], self.sequence_ends[sequences] - begin

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], rows: int) -> Arrangement:
        """Return the arrangement stored in `arrays`.

        Raises ValueError or KeyError if they do not describe one of `rows` rows.
        """
        found = cls(arrays["order"], arrays["sequence_ends"], arrays["unit_ends"])
        if any(array.ndim != 1 or array.dtype != np.int32 for array in vars(found).values()):
            raise ValueError("the stored arrangement does not consist of one-dimensional int32 arrays")
        if not np.array_equal(np.sort(found.order), np.arange(rows)):
            raise ValueError(f"the stored order is not a permutation of {rows} rows")
        for ends, last in ((found.sequence_ends, rows), (found.unit_ends, len(found.sequence_ends))):
            if not len(ends) or ends[-1] != last or np.diff(ends, prepend=0).min() < 1:
                raise ValueError("the stored ends do not ascend to the number of entries")
        return found


def arrange(
    spec: PlanSpec, sizes: np.ndarray, epoch: int, window: int, sources: np.ndarray | None = None
) -> Arrangement:
    """Arrange the rows of a window into sequences and units.

    sizes: tokens of the rows in their shuffled order; int [rows], at least one row. sources: tokens that an encoder
    reads, for encoder-decoders; used only for length buckets.
    """
    sizes, rows = np.asarray(sizes, np.int64), len(sizes)
    order, ends = np.arange(rows), np.arange(1, rows + 1)
    if spec.pack_tokens is not None:
        order, ends = _packed(sizes, spec.pack_tokens, generator(spec.seed, epoch, window, PACKING))
    elif spec.length_buckets:
        order = by_length(sizes, sources)
    units = np.arange(1, len(ends) + 1)
    if spec.global_batch_tokens is not None:
        loads = np.add.reduceat(sizes[order], np.concatenate([[0], ends[:-1]]))
        units = cut_by_tokens(loads, spec.global_batch_tokens)
    elif spec.length_buckets:
        size = spec.global_batch_size or 1
        units = np.append(np.arange(size, rows, size), rows)
    if spec.length_buckets:
        order, units = _shuffled(spec, order, units, generator(spec.seed, epoch, window, BUCKETS))
    return Arrangement(order.astype(np.int32), ends.astype(np.int32), units.astype(np.int32))


def _packed(sizes: np.ndarray, capacity: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (order of rows, ends of sequences).

    Sequences are shuffled, because otherwise their lengths would decrease. Inside a sequence, rows keep the window's
    shuffled order.
    """
    numbers = best_fit(sizes, capacity)
    places = draw.permutation(int(numbers.max()) + 1)[numbers]
    return np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))


def _shuffled(
    spec: PlanSpec, order: np.ndarray, ends: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the batches in shuffled order. A batch with too few rows stays last: it occurs only at the end of an epoch."""
    batches = np.split(order, ends[:-1])
    short = spec.global_batch_size is not None and len(batches[-1]) < spec.global_batch_size
    places = draw.permutation(len(batches) - short).tolist()
    batches = [batches[place] for place in places] + batches[len(places) :]
    return np.concatenate(batches), np.cumsum([len(batch) for batch in batches])


class ArrangedWindows:
    """The arrangements of all windows, computed when needed.

    Several threads may use it, and processes may share the folder.
    """

    def __init__(
        self, spec: PlanSpec, rows: RowOrder, sizes: Sizes, sources: Sizes | None, folder: StoragePath | None
    ) -> None:
        self._spec, self._rows, self._sizes, self._folder = spec, rows, sizes, folder
        self._sources = sources if spec.length_buckets else None
        self._lock = RLock()
        # Epoch → the first unit of each window, for epochs that are counted in part, and for those counted to the end.
        self._begun: dict[int, list[int]] = {}
        self._counted: dict[int, list[int]] = {}
        self._opened: PlanFiles | None = None
        # Whether units must be counted; otherwise their number follows from the number of rows.
        self._unequal = spec.pack_tokens is not None or spec.global_batch_tokens is not None
        self.arrangement = lru_cache(maxsize=4)(self._arrangement)
        self.pairs = lru_cache(maxsize=4)(self._pairs)

    def bounds(self, epoch: int, window: int) -> tuple[int, int]:
        """Return the range of row positions of a window in its epoch, as (first, after the last).

        With length buckets and a fixed number of rows per batch, a window does not end where its shards end: the rows
        of its last, partial batch move to the next window.
        """
        starts, size = self._rows.starts(epoch), self._spec.global_batch_size
        first, last = int(starts[window]), int(starts[window + 1])
        if first < last and size is not None and self._spec.pack_tokens is None:
            first -= first % size
            last -= 0 if last == self._rows.length else last % size
        return first, last

    def unit_starts(self, epoch: int, unit: int | None) -> list[int]:
        """Return the number of the first unit of each window of an epoch, far enough to find the window of `unit`.

        The last entry is the first unit of the window after that, so that no call waits for the lengths of later rows.
        If unit is None, all windows are counted, and the last entry is the number of units.
        """
        if epoch in self._counted:
            return self._counted[epoch]
        windows = len(self._rows.starts(epoch)) - 1

        def enough(starts: list[int]) -> bool:
            return len(starts) > windows or (unit is not None and starts[-1] >= unit)

        known = self._begun.get(epoch, [0])[:]
        if enough(known):
            return known
        with self._lock:
            if epoch not in self._begun:
                self._begun[epoch] = self._kept_starts(epoch, windows)
            starts = self._begun[epoch]
            before = len(starts)
            while not enough(starts):
                starts.append(starts[-1] + self._count(epoch, len(starts) - 1))
            if len(starts) > windows:
                files = self._files() if self._unequal else None
                if before < len(starts) and files is not None:
                    files.save(_epoch_name(epoch), starts=np.asarray(starts, np.int64))
                self._counted[epoch] = starts
            return starts[:]

    def rows_before(self, epoch: int, unit: int) -> int:
        """Return the number of rows of an epoch before the unit `unit`."""
        starts = self.unit_starts(epoch, unit)
        window = bisect_right(starts, unit) - 1
        if unit == starts[window]:
            return int(self._rows.starts(epoch)[window])
        within = self.arrangement(epoch, window).rows_before(unit - starts[window])
        return self.bounds(epoch, window)[0] + within

    def _count(self, epoch: int, window: int) -> int:
        first, last = self.bounds(epoch, window)
        if self._unequal:
            return self.arrangement(epoch, window).units if first < last else 0
        return -(-(last - first) // (self._spec.global_batch_size or 1))

    def _pairs(self, epoch: int, window: int) -> np.ndarray:
        """Return (shard, row) for the rows of a window in the shuffled order, [rows, 2]."""
        first, last = self.bounds(epoch, window)
        return self._rows.take(epoch * self._rows.length + first, epoch * self._rows.length + last)

    def _arrangement(self, epoch: int, window: int) -> Arrangement:
        files, name = self._files(), f"{_epoch_name(epoch)}-window-{window:06d}"
        first, last = self.bounds(epoch, window)
        if files is not None:
            kept = files.load(name, lambda arrays: Arrangement.read(arrays, last - first))
            if kept is not None:
                return kept
        pairs = self.pairs(epoch, window)
        sources = None if self._sources is None else _of_rows(self._sources, pairs)
        made = arrange(self._spec, _of_rows(self._sizes, pairs), epoch, window, sources)
        if files is not None:
            files.save(name, **vars(made))
        return made

    def _files(self) -> PlanFiles | None:
        """Return the folder of this plan.

        The sizes of one shard are part of its name: a run with other tasks has other sizes for the same shards and must not
        use these files.
        """
        if self._folder is None or self._opened is not None:
            return self._opened
        with self._lock:
            if self._opened is None:
                name = hashlib.sha256(f"{FORMAT} {self._spec.digest()} ".encode())
                name.update(np.asarray(self._sizes(int(self._rows.shard_order()[0])), np.int64).tobytes())
                self._opened = PlanFiles(self._folder / name.hexdigest()[:20])
            return self._opened

    def _kept_starts(self, epoch: int, windows: int) -> list[int]:
        def check(arrays: dict[str, np.ndarray]) -> list[int]:
            starts = arrays["starts"]
            if starts.dtype != np.int64 or starts.shape != (windows + 1,) or starts[0] != 0:
                raise ValueError("the stored unit counts belong to another epoch")
            if (np.diff(starts) < 0).any():
                raise ValueError("the stored unit counts do not ascend")
            counts: list[int] = starts.tolist()
            return counts

        files = self._files() if self._unequal else None
        return (None if files is None else files.load(_epoch_name(epoch), check)) or [0]


def _of_rows(sizes: Sizes, pairs: np.ndarray) -> np.ndarray:
    """Return the sizes of (shard, row) pairs, int64 [rows]."""
    found = np.empty(len(pairs), np.int64)
    by_shard = np.argsort(pairs[:, 0], kind="stable")
    shards, begins = np.unique(pairs[by_shard, 0], return_index=True)
    for shard, places in zip(shards.tolist(), np.split(by_shard, begins[1:]), strict=True):
        found[places] = sizes(shard)[pairs[places, 1]]
    return found


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:05d}"


Found = TypeVar("Found")

# Errors of reading a file that was cut short, overwritten or written by another program.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class PlanFiles:
    """The stored arrangements: a folder of named files.

    Processes may write the same name, and readers see complete files.
    """

    def __init__(self, folder: StoragePath) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, check: Callable[[dict[str, np.ndarray]], Found]) -> Found | None:
        """Load the arrays in a stored file, and return what `check` makes of them.

        Returns None if the file is absent or damaged, or if `check` raises ValueError or KeyError.
        """
        try:
            # Read the bytes first: for a truncated file, np.load would leave its own stream open.
            read = io.BytesIO((self._folder / f"{name}.npz").read_bytes())
            with np.load(read, allow_pickle=False) as archive:
                return check({key: archive[key] for key in archive.files})
        except _DAMAGED:
            return None

    def save(self, name: str, **arrays: np.ndarray) -> None:
        made = io.BytesIO()
        np.savez(made, **arrays)  # type: ignore[arg-type]
        storage.write(self._folder / f"{name}.npz", made.getbuffer())
