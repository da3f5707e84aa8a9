"""Token shards: immutable Parquet files of contiguous rows, written atomically.

Columns: `id`; for each task `<task>.input_ids`, `<task>.spans` (causal: flat start, end pairs of the tokens with loss) or
`<task>.labels` (seq2seq: the target), `<task>.length`, `<task>.loss_tokens`, `<task>.cut`; for validation also `reference`
(the answer as text) and `entities` (JSON), with which predictions are compared.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medray import storage
from medray.data.encode import IGNORED
from medray.data.encode.encoder import TaskColumns
from medray.data.shards.seal import FAILED, DamagedShardError, read_sealed, sealed
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath

LOOK_SECONDS, GONE_SECONDS = 5.0, 60.0
_COUNTS_KEPT = 4096  # cached columns of row counts for shards that are not in memory


def shard_path(folder: StoragePath, index: int) -> StoragePath:
    return folder / f"shard-{index:06d}.parquet"


def write_shard(
    folder: StoragePath,
    index: int,
    ids: Sequence[str],
    columns: Mapping[str, TaskColumns],
    architecture: Literal["causal", "seq2seq"],
    *,
    truth: Sequence[tuple[str, Sequence[Mapping[str, Any]] | None]] | None,
) -> None:
    """Write the shard `index` atomically: a reader sees the whole file or none.

    truth: for validation, (reference, entities) of each row; else None.
    """
    made: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
    for task, found in columns.items():
        inputs = np.diff(found.input_ends, prepend=0)
        targets = np.diff(found.target_ends, prepend=0)
        if architecture == "causal":
            length, loss = inputs, _span_tokens(found)
        else:
            length, loss = inputs + targets, targets
        made[f"{task}.input_ids"] = _lists(found.input_ids, found.input_ends)
        made[f"{task}.{_second(architecture)}"] = _lists(found.targets, found.target_ends)
        made[f"{task}.length"] = pa.array(length.astype(np.int32))
        made[f"{task}.loss_tokens"] = pa.array(loss.astype(np.int32))
        made[f"{task}.cut"] = pa.array(found.cut)
    if truth is not None:
        entities = [None if entry is None else json.dumps(list(entry)) for _, entry in truth]
        made["reference"] = pa.array([text for text, _ in truth], pa.string())
        made["entities"] = pa.array(entities, pa.string())
    table = pa.table(made)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        column_encoding=_encodings(made),
        row_group_size=max(len(ids), 1),  # a shard is always read completely
        write_statistics=False,
    )
    storage.write(shard_path(folder, index), sealed(sink.getvalue().to_pybytes()))


def _second(architecture: str) -> str:
    return "spans" if architecture == "causal" else "labels"


def _encodings(columns: Mapping[str, pa.Array]) -> dict[str, str]:
    """Return the encoding of each column. Ids are split by byte position, which compresses best: most high bytes are equal."""
    lists = (name for name, column in columns.items() if pa.types.is_large_list(column.type))
    return {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists}


def _lists(values: np.ndarray, ends: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(_offsets(ends)), pa.array(values, pa.int32()))


def _offsets(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), ends])


def _span_tokens(columns: TaskColumns) -> np.ndarray:
    """Return the loss tokens of each row: the sum of the lengths of its spans."""
    spans = columns.targets.astype(np.int64).reshape(-1, 2)
    totals = _offsets(np.cumsum(spans[:, 1] - spans[:, 0]))
    return np.diff(totals[columns.target_ends // 2], prepend=0)


@dataclass(frozen=True)
class _Ragged:
    """Lists of ids: row r is values[offsets[r] : offsets[r + 1]]. offsets: Python integers, which are faster to index."""

    values: np.ndarray
    offsets: list[int]

    def row(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """A shard in memory. tasks: task → (input_ids, spans or labels). texts: columns of strings."""

    causal: bool
    tasks: dict[str, tuple[_Ragged, _Ragged]]
    counts: dict[str, np.ndarray]
    texts: dict[str, pa.Array]


class ShardStore:
    """A reader of the token shards in one folder, which keeps the last `keep` of them in memory.

    Several threads may use it.

    patience_seconds: how long to wait for a shard while no new shard appears in the folder.
    """

    def __init__(self, folder: StoragePath, keep: int = 16, patience_seconds: float = 900) -> None:
        self.folder, self._keep, self._patience = folder, keep, patience_seconds
        self.waits_for: str | None = None  # what `wait` is waiting for now, for a message
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._counts: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()
        self._lock = Lock()
        self._gates: dict[int, Lock] = {}  # one per shard that is being read, so that it is read once
        self._ahead: ThreadPoolExecutor | None = None
        self._asked: set[int] = set()
        self._damaged: DamagedShardError | None = None  # of this store's threads, the first error

    def has(self, index: int) -> bool:
        return index in self._shards or shard_path(self.folder, index).exists()

    def example(self, index: int, row: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (input_ids, labels) of one task of a row, int32. Both are empty if the row lacks the task.

        Causal models: labels [length] are IGNORED where a token carries no loss. Encoder-decoders: labels [target
        tokens].
        """
        shard = self._shard(index)
        inputs, second = shard.tasks[task]
        ids, other = inputs.row(row), second.row(row)
        if not shard.causal:
            return ids, other
        labels = np.full(len(ids), IGNORED, np.int32)
        spans = other.tolist()
        for start, end in zip(spans[::2], spans[1::2], strict=True):
            labels[start:end] = ids[start:end]
        return ids, labels

    def prompt(self, index: int, row: int, task: str = "label") -> np.ndarray:
        """Return the prompt of a row for generation, as token ids, int32.

        These are the ids before the last span with loss (causal models), or the source (encoder-decoders).
        """
        shard = self._shard(index)
        inputs, second = shard.tasks[task]
        ids, spans = inputs.row(row), second.row(row)
        return ids[: spans[-2]] if shard.causal and len(spans) else ids

    def counts(self, index: int, task: str, name: str) -> np.ndarray:
        """Return the column `<task>.<name>` of a shard [rows]: length or loss_tokens (int32), or cut (bool).

        Token ids are not read, so that a plan over many shards is cheap.
        """
        column = f"{task}.{name}"
        with self._lock:
            found = self._counts.get((index, column))
            if found is None and index in self._shards:
                found = self._shards[index].counts[column]
        if found is None:
            self.wait(index)
            found = _numbers(shard_table(shard_path(self.folder, index), [column]).column(0))
            with self._lock:
                self._counts[index, column] = found
                if len(self._counts) > _COUNTS_KEPT:
                    self._counts.popitem(last=False)
        return found

    def sizes(self, index: int, tasks: tuple[str, ...]) -> np.ndarray:
        """Return the number of tokens of each row in a forward pass, summed over `tasks`; int32 [rows]."""
        lengths = np.stack([self.counts(index, task, "length") for task in tasks])
        return np.asarray(lengths.sum(axis=0, dtype=np.int32))

    def source_sizes(self, index: int, task: str) -> np.ndarray:
        """Return the number of tokens of each row that the encoder of an encoder-decoder reads; int32 [rows]."""
        sizes: np.ndarray = self.counts(index, task, "length") - self.counts(index, task, "loss_tokens")
        return sizes

    def text(self, index: int, row: int, name: str) -> str | None:
        """Return the text column `name` (id, reference or entities) of one row, or None if the shard does not have it."""
        text: str | None = self._shard(index).texts[name][row].as_py()
        return text

    def prefetch(self, indices: Iterable[int]) -> None:
        """Begin to read existing shards in the background, one after the other. Never raises.

        If a shard cannot be read, the error is raised when the shard is used.
        """
        with self._lock:
            wanted = [index for index in indices if index not in self._shards and index not in self._asked]
            self._asked.update(wanted)
            if wanted and self._ahead is None:
                self._ahead = ThreadPoolExecutor(1, thread_name_prefix="shards")
        for index in wanted:
            with suppress(RuntimeError):  # the interpreter is shutting down
                assert self._ahead is not None
                self._ahead.submit(self._read_ahead, index)

    def wait(self, index: int, poll_seconds: float = 0.1) -> None:
        """Wait until the shard `index` has been written.

        Raises RunFailedError if the pipeline has failed, if no shard has appeared for `patience_seconds`, or if the
        folder has been missing for GONE_SECONDS.
        """
        if self._is_there(index):
            return
        changed, next_look, files = time.monotonic(), 0.0, -1
        self.waits_for = f"the token shard {shard_path(self.folder, index)}"
        try:
            while not self._is_there(index):
                if self._damaged:
                    raise self._damaged
                self._raise_failure()
                if (now := time.monotonic()) >= next_look:
                    next_look = now + min(LOOK_SECONDS, self._patience / 4)
                    if (found := self._files()) and found != files:
                        files, changed = found, now
                    if now - changed > (self._patience if found else min(GONE_SECONDS, self._patience)):
                        raise self._never_came(index, now - changed, gone=not found)
                time.sleep(poll_seconds)
        finally:
            self.waits_for = None

    def _is_there(self, index: int) -> bool:
        """Return the result of `has`, or False if storage does not answer now, because it may answer later."""
        try:
            return self.has(index)
        except OSError:
            return False

    def _files(self) -> int:
        """Return the number of files in the folder; 0 means that it is missing, because an index exists before any shard."""
        try:
            return len(storage.sizes(self.folder))
        except OSError:
            return 0

    def _raise_failure(self) -> None:
        try:
            reason = storage.read_json(self.folder / FAILED).get("reason", "")
        except OSError:  # no failure; if storage does not answer, it is asked again soon
            return
        except InputError as error:
            reason = str(error)
        raise RunFailedError(f"the data pipeline failed: {reason}")

    def _never_came(self, index: int, seconds: float, *, gone: bool) -> RunFailedError:
        why = "its folder is missing or unreadable" if gone else "no other shard was written either"
        return RunFailedError(
            f"the token shard {shard_path(self.folder, index)} was not written: {why} for {seconds:.0f} s. Fix: check the "
            "storage, then run the same command again to resume from the newest checkpoint"
        )

    def _read_ahead(self, index: int) -> None:
        try:
            if self.has(index):
                self._shard(index)
        except Exception:  # raised again when the shard is used
            pass
        finally:
            with self._lock:
                self._asked.discard(index)

    def _shard(self, index: int) -> _Shard:
        """Return shard `index`. Wait for it if it does not exist yet."""
        with self._lock:
            if index in self._shards:
                self._shards.move_to_end(index)
                return self._shards[index]
            gate = self._gates.setdefault(index, Lock())
        self.wait(index)
        with gate:
            with self._lock:
                if index in self._shards:
                    return self._shards[index]
            shard = self._read(index)
            with self._lock:
                self._shards[index] = shard
                self._gates.pop(index, None)
                if len(self._shards) > self._keep:
                    self._shards.popitem(last=False)
            return shard

    def _read(self, index: int) -> _Shard:
        """Read a shard. Raises DamagedShardError, also if another thread found the damage and set the shard aside."""
        try:
            return _read(shard_path(self.folder, index))
        except DamagedShardError as error:
            self._damaged = error  # while this thread still holds the shard's gate
            raise
        except FileNotFoundError:
            if self._damaged is not None:
                raise self._damaged from None
            raise


def shard_table(path: StoragePath, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a shard and check its hash. Raises DamagedShardError if the hash does not match.

    All bytes are read, whatever the columns: hashing them takes a tenth of the time of decoding. pyarrow's
    `read_table` is not used, because it is slower and frees its buffers later.
    """
    with pq.ParquetFile(pa.BufferReader(read_sealed(path))) as file:
        return file.read(columns=columns, use_threads=False)


def _read(path: StoragePath) -> _Shard:
    table = shard_table(path)
    names = table.column_names
    tasks = [name.removesuffix(".input_ids") for name in names if name.endswith(".input_ids")]
    causal = any(name.endswith(".spans") for name in names)
    return _Shard(
        causal=causal,
        tasks={
            task: (
                _ragged(table.column(f"{task}.input_ids")),
                _ragged(table.column(f"{task}.{_second('causal' if causal else 'seq2seq')}")),
            )
            for task in tasks
        },
        counts={
            f"{task}.{name}": _numbers(table.column(f"{task}.{name}"))
            for task in tasks
            for name in ("length", "loss_tokens", "cut")
        },
        texts={
            name: table.column(name).combine_chunks()
            for name in ("id", "reference", "entities")
            if name in names
        },
    )


def _ragged(column: pa.ChunkedArray) -> _Ragged:
    lists = column.combine_chunks()
    return _Ragged(lists.values.to_numpy(), lists.offsets.to_numpy().tolist())


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    numbers: np.ndarray = column.combine_chunks().to_numpy(zero_copy_only=False)
    return numbers
