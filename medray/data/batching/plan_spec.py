"""The settings of a batch plan and the batch that it returns, as plain values that other packages keep, compare and send."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The rows of one optimizer step. Batches may differ in size; the reader fills up the slots of each rank.

    shards, rows: int64 [rows], the shard of each row and its number in it. ends: int64 [sequences], cumulative:
    sequence i has the rows ends[i-1]:ends[i]. Without packing, each sequence is one row.
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
    """A corpus of a split: the numbers of its shards, and the rows in each. weight: None if corpora are not mixed by
    weight.
    """

    shards: tuple[int, ...]
    rows: tuple[int, ...]
    weight: float | None = None

    def __post_init__(self) -> None:
        if len(self.shards) != len(self.rows):
            raise ValueError(f"{len(self.shards)} shards with {len(self.rows)} row counts")


class Sizes(Protocol):
    """The type of a function that returns the number of tokens of each row of a shard, int32 [rows].

    It counts all trained tasks or some of them, and may wait until the shard is written.
    """

    def __call__(self, shard: int, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSpec:
    """All settings that determine a batch plan, except the lengths of rows.

    global_batch_size: sequences per step (rows, or packed sequences with pack_tokens). global_batch_tokens: most
    tokens per step, used instead of global_batch_size. Raises ValueError if settings contradict each other.
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
            raise ValueError("a batch plan needs exactly one of global_batch_size and global_batch_tokens")
        for name in ("window_shards", "global_batch_size", "global_batch_tokens", "pack_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if self.length_buckets and self.pack_tokens is not None:
            raise ValueError(
                "length_buckets and pack_tokens exclude each other: packed sequences have about the same length"
            )
        if len({corpus.weight is None for corpus in self.corpora}) > 1:
            raise ValueError("either all corpora or none must have a weight")

    @property
    def weighted(self) -> bool:
        return any(corpus.weight is not None for corpus in self.corpora)

    def digest(self) -> str:
        """Return a hash that names this plan: equal settings give equal names in every process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
