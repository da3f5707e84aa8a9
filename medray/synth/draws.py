"""Seeded draws that give the same values on any machine and with any version of Python."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of draws for one subject. It depends on the seed and the names only, not on what was drawn elsewhere.

    Only `random.Random.random` is used, the one method whose values Python guarantees to keep.
    """

    def __init__(self, seed: int, *names: str) -> None:
        text = json.dumps([seed, *names])
        self._uniform = random.Random(
            int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
        ).random

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def index(self, count: int) -> int:
        """Return an integer from 0 to count - 1, each with the same probability."""
        return int(self._uniform() * count)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.index(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """Return one item with a probability proportional to its weight. At least one weight must be positive."""
        left = self._uniform() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            if left < weight:
                return item
            left -= weight
        return next(
            item for item, weight in zip(reversed(items), reversed(weights), strict=True) if weight > 0
        )

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different entries of `items`, in random order."""
        left = list(items)
        return [left.pop(self.index(len(left))) for _ in range(count)]
