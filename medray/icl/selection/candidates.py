"""Candidates of a query: the most similar documents, a diverse choice of them, and their order after reranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medray.icl.index.vector_index import DECIMALS, Hit, ordered

RANK_OFFSET = 60  # of reciprocal-rank fusion, as published (Cormack et al. 2009)


class CrossEncoder(Protocol):
    """The interface of a model that scores pairs of a query and a document."""

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return a score from 0 to 1 for each passage; higher is better."""


def above(hits: Sequence[Hit], threshold: float) -> list[Hit]:
    """Return the hits with a score of at least `threshold`."""
    return [hit for hit in hits if round(hit.score, DECIMALS) >= threshold]


def diverse(
    hits: Sequence[Hit], vectors: np.ndarray, count: int, weight: float, id_ranks: np.ndarray
) -> list[Hit]:
    """Return `count` hits by maximal marginal relevance (Carbonell and Goldstein 1998), in the order of their choice.

    Each time the hit with the largest `weight * similarity to the query - (1 - weight) * largest similarity to a chosen
    hit` is chosen. vectors: float32 [hits, size] of the hits, each of length 1. Ties are decided by id.
    """
    if not hits:
        return []
    between = np.asarray(vectors, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64).T
    near = np.array([hit.score for hit in hits], dtype=np.float64)
    nearest_chosen = np.zeros(len(hits))
    left = list(range(len(hits)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        gains = weight * near - (1 - weight) * nearest_chosen
        best = min(left, key=lambda at: (-round(float(gains[at]), DECIMALS), id_ranks[hits[at].row]))
        left.remove(best)
        nearest_chosen = between[best] if not chosen else np.maximum(nearest_chosen, between[best])
        chosen.append(best)
    return [hits[at] for at in chosen]


def fused(hits: Sequence[Hit], word_scores: np.ndarray, id_ranks: np.ndarray) -> list[Hit]:
    """Return hits in the order of reciprocal-rank fusion of their own scores and of BM25, with the fused score.

    word_scores: BM25 score of each hit.
    """
    by_words = [Hit(hit.row, float(score)) for hit, score in zip(hits, word_scores, strict=True)]
    sums: dict[int, float] = {}
    for ranking in (ordered(hits, id_ranks), ordered(by_words, id_ranks)):
        for rank, hit in enumerate(ranking, 1):
            sums[hit.row] = sums.get(hit.row, 0.0) + 1 / (RANK_OFFSET + rank)
    return ordered([Hit(row, score) for row, score in sums.items()], id_ranks)


def crossed(
    hits: Sequence[Hit], query: str, texts: Sequence[str], encoder: CrossEncoder, id_ranks: np.ndarray
) -> list[Hit]:
    """Return hits in the order of a cross-encoder, with its scores. texts: text of each hit."""
    if not hits:
        return []
    scores = encoder.scores(query, texts)
    return ordered([Hit(hit.row, score) for hit, score in zip(hits, scores, strict=True)], id_ranks)
