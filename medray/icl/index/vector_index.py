"""The search for similar vectors: exact up to a million, approximate by faiss above. Vectors are memory-mapped.

The order of hits is by score, then by id. Scores are compared after rounding to six decimals, because the last bits of
a product depend on the number of queries that are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from medray.icl.index.extra import library

Kind = Literal["flat", "ivf", "hnsw"]
LARGEST_FLAT = 1_000_000  # documents
VECTORS, APPROXIMATE = "vectors.npy", "index.faiss"
DECIMALS = 6
SPARE = 8  # hits that are fetched in addition, so that few searches are repeated
_RECALL_QUERIES, _RECALL_HITS = 200, 10


class Hit(NamedTuple):
    """A found document. row: its position in the index. score: higher is better."""

    row: int
    score: float


def kind_of(asked: str, documents: int) -> Kind:
    """Return the kind of index for `icl.index`."""
    if asked == "auto":
        return "flat" if documents <= LARGEST_FLAT else "ivf"
    return asked  # type: ignore[return-value]


def ordered(hits: Sequence[Hit], id_ranks: np.ndarray) -> list[Hit]:
    """Return hits sorted by score, highest first, then by id. id_ranks: position of each row's id among the sorted ids."""
    return sorted(hits, key=lambda hit: (-round(hit.score, DECIMALS), id_ranks[hit.row]))


def ranks_of(ids: Sequence[str]) -> np.ndarray:
    """Return the position of each id among the sorted ids, int64 [ids]."""
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorIndex:
    """Vectors of documents that can be searched.

    vectors: float32 [documents, size], each of length 1. id_ranks: see `ranks_of`. approximate: the faiss index; None for
    an exact search.
    """

    vectors: np.ndarray
    id_ranks: np.ndarray
    kind: Kind
    approximate: Any = None

    def search(
        self,
        queries: np.ndarray,
        count: int,
        *,
        allowed: np.ndarray | None = None,
        refused: Callable[[int, int], bool] = lambda query, row: False,
    ) -> list[list[Hit]]:
        """Return the `count` most similar documents of each query, best first; fewer if there are fewer.

        queries: float32 [queries, size]. allowed: rows that may be found, searched exactly; default: all. refused: called
        with the position of a query and a row; whether the query must not find the row.
        """
        there = len(self.vectors) if allowed is None else len(allowed)
        found: list[list[Hit]] = [[] for _ in queries]
        waiting, fetch = list(range(len(queries))), min(count + SPARE, there)
        while waiting and fetch:
            scores, rows = self._nearest(queries[waiting], fetch, allowed)
            unfinished = []
            for at, query in enumerate(waiting):
                hits = [
                    Hit(int(row), float(score))
                    for row, score in zip(rows[at], scores[at], strict=True)
                    if row >= 0 and not refused(query, int(row))
                ]
                found[query] = ordered(hits, self.id_ranks)[:count]
                exhausted = (rows[at] < 0).any()  # an approximate search has nothing more
                if fetch < there and not exhausted and not _is_complete(found[query], count, scores[at]):
                    unfinished.append(query)
            waiting, fetch = unfinished, min(2 * fetch, there)
        return found

    def _nearest(
        self, queries: np.ndarray, fetch: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = library("faiss")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if allowed is not None:
            scores, rows = faiss.knn(
                queries, np.ascontiguousarray(self.vectors[allowed]), fetch, metric=faiss.METRIC_INNER_PRODUCT
            )
            return scores, np.asarray(allowed)[rows]
        if self.approximate is None:
            scores, rows = faiss.knn(queries, self.vectors, fetch, metric=faiss.METRIC_INNER_PRODUCT)
            return scores, rows
        if self.kind == "hnsw":
            self.approximate.hnsw.efSearch = max(128, 2 * fetch)
        scores, rows = self.approximate.search(queries, fetch)
        return scores, rows

    def recall(self, queries: np.ndarray | None = None) -> float:
        """Return the share of the ten most similar documents that the search finds, compared with an exact search.

        queries: default: vectors of the index itself, evenly spaced.
        """
        if self.approximate is None or not len(self.vectors):
            return 1.0
        if queries is None:
            queries = np.asarray(
                self.vectors[:: max(1, len(self.vectors) // _RECALL_QUERIES)][:_RECALL_QUERIES]
            )
        count = min(_RECALL_HITS, len(self.vectors))
        exact = VectorIndex(vectors=self.vectors, id_ranks=self.id_ranks, kind="flat")
        pairs = zip(self.search(queries, count), exact.search(queries, count), strict=True)
        shares = [len({hit.row for hit in near} & {hit.row for hit in true}) / count for near, true in pairs]
        return sum(shares) / len(shares)


def _is_complete(kept: Sequence[Hit], count: int, fetched: np.ndarray) -> bool:
    """Return whether a search need not fetch more: enough hits are left, and no document beyond them has an equal score."""
    return len(kept) == count and round(float(fetched[-1]), DECIMALS) < round(kept[-1].score, DECIMALS)


def build(vectors: np.ndarray, ids: Sequence[str], kind: Kind, *, seed: int) -> VectorIndex:
    """Return the index of vectors. seed: of the clusters of ivf."""
    faiss = library("faiss")
    count, size = vectors.shape
    made: Any = None
    if kind == "ivf":
        lists = max(1, min(int(4 * count**0.5), count // 39))  # faiss asks for 39 vectors per list
        made = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, lists, faiss.METRIC_INNER_PRODUCT)
        made.cp.seed = seed + 1
        made.train(vectors)
        made.nprobe = max(min(lists, 8), lists // 16)
        made.add(vectors)
    elif kind == "hnsw":
        made = faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = 200
        made.add(vectors)
    return VectorIndex(vectors=vectors, id_ranks=ranks_of(ids), kind=kind, approximate=made)


def save(index: VectorIndex, folder: Path) -> None:
    """Write the files of an index into `folder`."""
    np.save(folder / VECTORS, np.ascontiguousarray(index.vectors, dtype=np.float32), allow_pickle=False)
    if index.approximate is not None:
        library("faiss").write_index(index.approximate, str(folder / APPROXIMATE))


def load(folder: Path, ids: Sequence[str], kind: Kind) -> VectorIndex:
    """Return the index in `folder`, memory-mapped. The files must have been checked before: faiss trusts them."""
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    made: Any = None
    if kind != "flat":
        faiss = library("faiss")
        made = faiss.read_index(str(folder / APPROXIMATE), faiss.IO_FLAG_MMAP_IFC)
    return VectorIndex(vectors=vectors, id_ranks=ranks_of(ids), kind=kind, approximate=made)
