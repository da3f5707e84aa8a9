"""What a batch plan is made from, and what it gives: values that other rooms hold, compare and send."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One optimizer step, real rows only: filling up to equal slots a rank is the reader's matter.

    shards, rows: int64 [rows], shard numbers and rows in them. ends: int64 [sequences], cumulative: sequence i holds
    the rows ends[i-1]:ends[i]. Without packing each sequence is one row.
    """

    epoch: int
    shards: np.ndarray
    rows: np.ndarray
    ends: np.ndarray

    @property
    def real(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def sequences(self) -> int:
        return len(self.ends)


@dataclass(frozen=True)
class Corpus:
    """Shards by their numbers in the split, and their row counts; weight: None where nothing is mixed by weight."""

    shards: tuple[int, ...]
    rows: tuple[int, ...]
    weight: float | None = None

    def __post_init__(self) -> None:
        if len(self.shards) != len(self.rows):
            raise ValueError(f"{len(self.shards)} shards with {len(self.rows)} row counts")


class Sizes(Protocol):
    """Tokens of every row of a shard, all trained tasks together or a part of them, int32 [rows]. May wait for it."""

    def __call__(self, shard: int, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSpec:
    """All that decides a plan but the sizes of rows.

    global_batch_size: sequences of a step (rows, or with pack_tokens packed sequences). global_batch_tokens: most
    tokens of a step, in its place. Raises ValueError where these contradict each other.
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
            raise ValueError("a plan needs global_batch_size or global_batch_tokens, and not both")
        for name in ("window_shards", "global_batch_size", "global_batch_tokens", "pack_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}: it must be at least 1")
        if self.length_buckets and self.pack_tokens is not None:
            raise ValueError("length_buckets and pack_tokens: packed sequences are alike in length already")
        if len({corpus.weight is None for corpus in self.corpora}) > 1:
            raise ValueError("all corpora have a weight, or none has")

    @property
    def weighted(self) -> bool:
        return any(corpus.weight is not None for corpus in self.corpora)

    def digest(self) -> str:
        """Hex name of this plan: equal specs give equal names in every process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
