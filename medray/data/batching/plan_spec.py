"""The input and the output of a batch plan, as values that other packages keep, compare and send."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One optimizer step with real rows only; the reader adds empty slots so that all ranks have the same number.

    shards, rows: int64 [rows], shard numbers and rows in them. ends: int64 [sequences], cumulative: sequence i has the rows
    ends[i-1]:ends[i]. Without packing, each sequence is one row.
    """

    epoch: int
    shards: np.ndarray
    rows: np.ndarray
    ends: np.ndarray

    @property
    def real(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def sequences(self) -> int:
        return len(self.ends)


@dataclass(frozen=True)
class Corpus:
    """The shards of a corpus, by their numbers in the split, and their row counts. weight: None without mixing by weight."""

    shards: tuple[int, ...]
    rows: tuple[int, ...]
    weight: float | None = None

    def __post_init__(self) -> None:
        if len(self.shards) != len(self.rows):
            raise ValueError(f"{len(self.shards)} shards with {len(self.rows)} row counts")


class Sizes(Protocol):
    """A function that returns the tokens of every row of a shard, int32 [rows], for all trained tasks or some of them.

    It may wait until the shard is written.
    """

    def __call__(self, shard: int, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSpec:
    """Everything that determines a plan, except the sizes of rows.

    global_batch_size: sequences per step (rows, or packed sequences with pack_tokens). global_batch_tokens: largest number
    of tokens per step, instead of global_batch_size. Raises ValueError for settings that contradict each other.
    """

    corpora: tuple[Corpus, ...]
    seed: int
    window_shards: int
    global_batch_size: int | None = None
    global_batch_tokens: int | None = None
    pack_tokens: int | None = None
    length_buckets: bool = False

    def __post_init__(self) -> None:
        if (self.global_batch_size is None) == (self.global_batch_tokens is None):
            raise ValueError("a plan needs either global_batch_size or global_batch_tokens")
        for name in ("window_shards", "global_batch_size", "global_batch_tokens", "pack_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}: must be at least 1")
        if self.length_buckets and self.pack_tokens is not None:
            raise ValueError("length_buckets and pack_tokens: packed sequences already have the same length")
        if len({corpus.weight is None for corpus in self.corpora}) > 1:
            raise ValueError("either all corpora or none must have a weight")

    @property
    def weighted(self) -> bool:
        return any(corpus.weight is not None for corpus in self.corpora)

    def digest(self) -> str:
        """Return a hex name of this plan. Equal specs have equal names in every process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
