"""Training documents that must not be an example of a test document: itself, its duplicates and near-duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medray.data.index.text_overlap import normalised, run_hashes
from medray.icl.documents import Document

SHINGLE_WORDS = 5


class Exclusion:
    """Decides which training documents may be examples of which test documents.

    A training document is refused if it has the id, the group or the text of the test document (ignoring case and
    blanks), or if the Jaccard similarity of their sequences of five words is at least `threshold`. Only documents that a
    search proposes are compared, exactly. refused: number of decisions by reason.
    """

    def __init__(self, train: Sequence[Document], test: Sequence[Document], threshold: float | None) -> None:
        self._train, self._test, self._threshold = train, test, threshold
        self._train_runs: dict[int, np.ndarray] = {}
        self._test_runs: dict[int, np.ndarray] = {}
        self._hashes: dict[int, str] = {}
        self._test_hashes: dict[int, str] = {}
        self._known: dict[tuple[int, int], bool] = {}
        self.refused: Counter[str] = Counter()

    def __call__(self, test: int, row: int) -> bool:
        """Return whether training document `row` is refused as an example of test document `test` (positions)."""
        known = self._known.get((test, row))
        if known is None:
            reason = self._reason(test, row)
            known = self._known[test, row] = reason is not None
            if reason is not None:
                self.refused[reason] += 1
        return known

    def _reason(self, test: int, row: int) -> str | None:
        asked, example = self._test[test], self._train[row]
        if asked.id == example.id:
            return "same id"
        if asked.group and asked.group == example.group:
            return "same group"
        if row not in self._hashes:
            self._hashes[row] = example.text_hash
        if test not in self._test_hashes:
            self._test_hashes[test] = asked.text_hash
        if self._hashes[row] == self._test_hashes[test]:
            return "same text"
        if self._threshold is None:
            return None
        if row not in self._train_runs:
            self._train_runs[row] = _runs(example.text)
        if test not in self._test_runs:
            self._test_runs[test] = _runs(asked.text)
        similar = jaccard(self._train_runs[row], self._test_runs[test]) >= self._threshold
        return "near-duplicate" if similar else None


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jaccard similarity of two sorted arrays of distinct hashes; 0 if both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0


def _runs(text: str) -> np.ndarray:
    words = normalised(text).split()
    if not words:
        return np.zeros(0, dtype=np.uint64)
    return np.unique(run_hashes(words, min(SHINGLE_WORDS, len(words))))
