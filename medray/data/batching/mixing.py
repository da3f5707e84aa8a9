"""The mixture of corpora by weight, in exact proportions and without randomness.

With weights w that sum to 1, pick k of corpus c (counted from 0) has the time (k + 1/2) / w_c. Picks are ordered by
time, and at equal times by the number of the corpus. After n picks, corpus c of C corpora has contributed n·w_c rows,
with an error of at most 1/2 + w_c·(C - 2)/2, so at most one row for up to three corpora. (This is the Webster method
of apportionment.) Weights are decimal numbers: 0.7 is 7/10. All arithmetic is in integers, so the billionth pick is as
exact as the first, and any position of the mixture is computed directly.

Each corpus is an endless stream: when all its rows are used, it is shuffled again. An epoch ends when the first corpus
is used up, counted from the start of the run; the other streams continue across the end of the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from medray.data.batching.order import Stream
from medray.data.batching.plan_spec import Corpus
from medray.errors import InputError


class Shares:
    """The rule that says which corpus provides each row of a mixture by weight.

    Raises ValueError for a weight that is not a positive number.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight {weight} of a corpus is not a positive number")
        parts = [Fraction(repr(float(weight))) for weight in weights]
        common = math.lcm(*(part.denominator for part in parts))
        whole = [int(part * common) for part in parts]
        self._parts = [part // math.gcd(*whole) for part in whole]

    def counts(self, picks: int) -> list[int]:
        """Return how many of the first `picks` rows of the mixture come from each corpus."""
        total, corpora = sum(self._parts), len(self._parts)
        # Start with a time before which there are at most `picks` picks; fewer than one pick per corpus is then missing.
        early = 2 * picks - corpora
        found = [max((early * part + total) // (2 * total), 0) for part in self._parts]
        for _ in range(picks - sum(found)):
            found[min(range(corpora), key=lambda c: Fraction(2 * found[c] + 1, self._parts[c]))] += 1
        return found

    def places(self, corpus: int, first: int, last: int) -> np.ndarray:
        """Return the positions in the mixture of the rows `first` to `last` of one corpus, int64 [last - first].

        Pick k of corpus c comes after all picks k' of corpus j with (2k' + 1) / w_j < (2k + 1) / w_c, or with equality
        if j < c.
        """
        part = self._parts[corpus]
        fits = (2 * last + 1) * max(self._parts) < 2**62
        odd = 2 * np.arange(first, last, dtype=np.int64) + 1
        # Weights with many digits need more than 64 bits: Python integers are exact too, but slower.
        odd = odd if fits else odd.astype(object)
        found = (odd - 1) // 2
        for other, share in enumerate(self._parts):
            if other < corpus:
                found = found + (odd * share // part + 1) // 2
            elif other > corpus:
                found = found + -(-odd * share // part) // 2
        return found.astype(np.int64)


class Mixture:
    """The order of rows of a mixture: corpora with weights, each shuffled. Raises InputError for a corpus without rows."""

    def __init__(self, corpora: Sequence[Corpus], seed: int, window_shards: int) -> None:
        for number, corpus in enumerate(corpora):
            if not sum(corpus.rows):
                raise InputError(
                    f"corpus {number + 1} of {len(corpora)} has a weight but no rows",
                    key="data.train",
                    value=corpus.weight,
                    fix="remove this corpus or its weight, or see in rejects.jsonl why its rows were rejected",
                )
        self._streams = [
            Stream(corpus.shards, corpus.rows, seed, window_shards, number)
            for number, corpus in enumerate(corpora)
        ]
        self._shares = Shares([corpus.weight or 0.0 for corpus in corpora])
        self.length = min(
            int(self._shares.places(number, stream.length - 1, stream.length)[0]) + 1
            for number, stream in enumerate(self._streams)
        )
        self._window_rows = window_shards * max(max(corpus.rows) for corpus in corpora)

    def starts(self, epoch: int) -> np.ndarray:
        return np.array([*range(0, self.length, self._window_rows), self.length], np.int64)

    def take(self, first: int, last: int) -> np.ndarray:
        pairs = np.empty((last - first, 2), np.int64)
        for number, (begin, end) in enumerate(self._ranges(first, last)):
            if begin < end:
                places = self._shares.places(number, begin, end) - first
                pairs[places] = self._streams[number].take(begin, end)
        return pairs

    def shards(self, first: int, last: int) -> list[int]:
        ranges = self._ranges(first, last)
        found = [stream.shards(*part) for stream, part in zip(self._streams, ranges, strict=True)]
        return list(dict.fromkeys(shard for shards in found for shard in shards))

    def shard_order(self) -> np.ndarray:
        needed = [
            (int(self._shares.places(number, first, first + 1)[0]), number, shards)
            for number, stream in enumerate(self._streams)
            for first, shards in stream.windows()
        ]
        return np.array([shard for _, _, shards in sorted(needed) for shard in shards], np.int64)

    def passes(self, picks: int) -> list[float]:
        """Return the number of epochs of each corpus, with fractions, after `picks` rows of the mixture."""
        counts = self._shares.counts(picks)
        return [count / stream.length for count, stream in zip(counts, self._streams, strict=True)]

    def _ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        return list(zip(self._shares.counts(first), self._shares.counts(last), strict=True))
