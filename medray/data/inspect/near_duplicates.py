"""Search for near-duplicate inputs: MinHash over sequences of five words, with locality-sensitive hashing.

Signatures of 128 values estimate the Jaccard similarity of the word sequences of two inputs with a standard error of
at most 0.045. The hash tables are chosen to miss few pairs (with a threshold of 0.8, one in seven of the pairs just
above it, and one in a thousand of those at 0.9), and every candidate is compared by its whole signature. Only the
first of several similar inputs goes into the tables, so that a corpus of one repeated sentence costs no more than any
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medray.data.index.text_overlap import normalised, run_hashes
from medray.data.inspect.decoded import Inputs
from medray.data.shards.token_split import TokenSet

SHINGLE_WORDS = 5
MOST_ROWS = 200_000  # largest number of rows of a split; they need about 6 kB each, 1.2 GB in total
SHOWN_PAIRS = 20
_SIGNATURE = 128
_FEW_MISSES = (0.1, 0.9)  # weights of a false candidate, which only costs a comparison, and of a missed one
_AT_ONCE = 512  # rows that are decoded together

Named = tuple[str, str]  # (id, text)


@dataclass(frozen=True)
class Pair:
    """A validation row and the training row that is most similar to it, by their ids."""

    train: str
    validation: str
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """The numbers of near-duplicate rows that were found.

    repeated: for each split, the number of rows similar to an earlier row. across: number of validation rows similar
    to a training row. pairs: the first of these. compared: for each split, the number of compared rows, which is
    smaller than the split if the split is very large.
    """

    threshold: float
    compared: dict[str, int]
    repeated: dict[str, int]
    across: int
    pairs: tuple[Pair, ...]


def near_duplicates(
    sets: Mapping[str, TokenSet],
    tokenizer: Any,
    *,
    threshold: float = 0.8,
    most_rows: int = MOST_ROWS,
) -> NearDuplicates:
    """Compare the inputs of all rows with each other.

    threshold: smallest Jaccard similarity of two rows that count as near-duplicates, above 0 and at most 1.
    """
    return compare(
        {split: _inputs(tokens, tokenizer, most_rows) for split, tokens in sets.items()}, threshold
    )


def compare(splits: Mapping[str, Iterator[Named]], threshold: float) -> NearDuplicates:
    """Compare texts with each other, given as (id, text) pairs for each split. Texts without a word are skipped."""
    compared, repeated = dict.fromkeys(splits, 0), dict.fromkeys(splits, 0)
    across: list[Pair] = []
    known = {split: _Index(threshold) for split in splits}
    for split, rows in splits.items():
        for name, text in rows:
            compared[split] += 1
            signature = _signature(text)
            if signature is None:
                continue
            if split != "train" and "train" in known:
                like = known["train"].nearest(signature)
                if like is not None:
                    across.append(Pair(like[0], name, like[1]))
            if known[split].nearest(signature) is None:
                known[split].add(name, signature)
            else:
                repeated[split] += 1
    return NearDuplicates(threshold, compared, repeated, len(across), tuple(across[:SHOWN_PAIRS]))


def earlier_likes(rows: Iterable[Named], threshold: float) -> Iterator[str | None]:
    """Yield for each (id, text) the id of the earlier text that it is a near-duplicate of, or None.

    A text is compared only with earlier ones that are not near-duplicates themselves.
    """
    index = _Index(threshold)
    for name, text in rows:
        signature = _signature(text)
        like = None if signature is None else index.nearest(signature)
        if signature is not None and like is None:
            index.add(name, signature)
        yield None if like is None else like[0]


class _Index:
    """An index of signatures with names."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        # Tables for a threshold of 1 would need the whole signature; above 0.95 there is no benefit.
        self._tables: Any = MinHashLSH(
            threshold=min(threshold, 0.95), num_perm=_SIGNATURE, weights=_FEW_MISSES
        )
        self._names: list[str] = []
        self._signatures: list[Any] = []

    def add(self, name: str, signature: Any) -> None:
        self._tables.insert(len(self._names), signature, check_duplication=False)
        self._names.append(name)
        self._signatures.append(signature.hashvalues)

    def nearest(self, signature: Any) -> tuple[str, float] | None:
        """Return (name, similarity) of the most similar signature above the threshold, the first of equals, or None."""
        best: tuple[float, int] | None = None
        for number in self._tables.query(signature):
            share = float(np.mean(self._signatures[number] == signature.hashvalues))
            if share >= self._threshold and (best is None or (share, -number) > best):
                best = share, -number
        return None if best is None else (self._names[-best[1]], best[0])


def _signature(text: str) -> Any:
    """Return the MinHash of a text's word sequences, or of all words of a shorter text; None for a text without a word."""
    from datasketch import MinHash

    words = normalised(text).split()
    if not words:
        return None
    runs = run_hashes(words, min(SHINGLE_WORDS, len(words)))
    with np.errstate(over="ignore"):
        found: Any = MinHash(num_perm=_SIGNATURE, hashfunc=int, permutations=_permutations(), scheme=_SCHEME)
        found.update_batch((np.unique(runs) >> np.uint64(32)).tolist())
    return found


_SCHEME = "affine32"
_PERMUTATIONS: list[Any] = []


def _permutations() -> Any:
    """Return the permutations of all signatures. They are cached: creating them costs more than a signature."""
    if not _PERMUTATIONS:
        from datasketch import MinHash

        _PERMUTATIONS.append(MinHash(num_perm=_SIGNATURE, scheme=_SCHEME).permutations)
    return _PERMUTATIONS[0]


def _inputs(tokens: TokenSet, tokenizer: Any, most_rows: int) -> Iterator[Named]:
    """Yield (id, input) for a split's rows, in order."""
    inputs, store = Inputs(tokenizer, tokens.spec), tokens.store(keep=2)
    left = most_rows
    for shard in tokens.index.shards:
        for begin in range(0, min(shard.rows, left), _AT_ONCE):
            rows: Sequence[int] = range(begin, min(begin + _AT_ONCE, shard.rows, left))
            found = inputs.texts([inputs.ids(store, shard.index, row, "label") for row in rows])
            for row, text in zip(rows, found, strict=True):
                yield str(store.text(shard.index, row, "id")), text
        left -= min(shard.rows, left)
