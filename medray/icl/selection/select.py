"""The selection of examples: for each test document the ids of training documents, best first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medray.config.icl import IclConfig
from medray.errors import InputError
from medray.icl import line_file
from medray.icl.documents import Document
from medray.icl.index.encoder import folder_digest
from medray.icl.index.index_folder import Index
from medray.icl.index.vector_index import Hit
from medray.icl.line_file import Lines
from medray.icl.selection.candidates import CrossEncoder, above, crossed, diverse, fused
from medray.icl.selection.exclusion import Exclusion

BATCH = 1024  # test documents that are searched and stored together; faiss is nine times slower with 256
REVISION = 1
_KEYS = (
    "search",
    "k",
    "score_threshold",
    "mmr_weight",
    "mmr_fetch",
    "reranking",
    "rerank_model",
    "rerank_long",
    "top_n",
    "near_duplicates",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The selected examples. ids: training documents of each test document, by its id, best first."""

    ids: dict[str, tuple[str, ...]]
    top_n: int

    def counts(self, shots: int) -> dict[str, int]:
        """Return how many test documents have fewer examples than asked for."""
        found = [len(ids) for ids in self.ids.values()]
        return {
            "documents": len(found),
            "fewer_than_top_n": sum(count < self.top_n for count in found),
            "fewer_than_shots": sum(count < shots for count in found),
            "without_example": sum(not count for count in found),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Searcher:
    """All that a search needs: the settings, the index, the training documents by row, and perhaps a cross-encoder."""

    icl: IclConfig
    index: Index
    train: Sequence[Document]
    cross_encoder: CrossEncoder | None = None

    def find(
        self, test: Sequence[Document], vectors: np.ndarray | None, refused: Callable[[int, int], bool]
    ) -> list[list[Hit]]:
        """Return the `icl.top_n` best examples of each test document, best first.

        vectors: float32 [test documents, size]; None for search: bm25. refused: see `Exclusion`.
        """
        icl, ranks = self.icl, self.index.words.id_ranks
        hits: list[list[Hit]]
        if icl.search == "bm25":
            hits = [
                self.index.words.search(document.text, icl.fetched, lambda row, at=at: refused(at, row))  # type: ignore[misc]
                for at, document in enumerate(test)
            ]
        else:
            assert self.index.vectors is not None
            assert vectors is not None
            hits = self.index.vectors.search(vectors, icl.fetched, refused=refused)
        return [
            self._order(document.text, self._chosen(found), ranks)[: icl.top_n]
            for document, found in zip(test, hits, strict=True)
        ]

    def _chosen(self, hits: list[Hit]) -> list[Hit]:
        icl = self.icl
        if icl.score_threshold is not None:
            hits = above(hits, icl.score_threshold)
        if icl.search == "mmr":
            assert self.index.vectors is not None
            vectors = self.index.vectors.vectors[[hit.row for hit in hits]]
            hits = diverse(hits, vectors, icl.k, icl.mmr_weight, self.index.words.id_ranks)
        return hits

    def _order(self, query: str, hits: list[Hit], ranks: np.ndarray) -> list[Hit]:
        if self.icl.reranking == "fusion":
            return fused(hits, self.index.words.scores_of(query, [hit.row for hit in hits]), ranks)
        if self.icl.reranking == "cross_encoder":
            assert self.cross_encoder is not None
            texts = [self.train[hit.row].text for hit in hits]
            return crossed(hits, query, texts, self.cross_encoder, ranks)
        return hits


def selection_fingerprint(
    icl: IclConfig,
    index: Index,
    train: Sequence[Document],
    test: Sequence[Document],
    query_digest: str | None,
) -> str:
    """Return the hash of all that decides a selection. The index does not know the groups of its documents."""
    digest = hashlib.sha256()
    values = {name: getattr(icl, name) for name in _KEYS}
    if icl.rerank_model and Path(icl.rerank_model).is_dir():
        values["rerank_model"] = folder_digest(str(Path(icl.rerank_model).resolve()))
    digest.update(json.dumps([REVISION, index.fingerprint, query_digest, values]).encode())
    digest.update(json.dumps([document.group for document in train]).encode())
    for document in test:
        digest.update(json.dumps([document.id, document.group, document.text]).encode())
    return digest.hexdigest()[:32]


def select(
    searcher: Searcher,
    test: Sequence[Document],
    vectors: np.ndarray | None,
    lines: Lines,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exclusion:
    """Select the examples of the test documents that are not in `lines` yet, and add them.

    Returns the exclusion with its counts of refused training documents.
    """
    exclusion = Exclusion(searcher.train, test, searcher.icl.near_duplicates)
    waiting = [at for at, document in enumerate(test) if document.id not in lines.rows]
    for start in range(0, len(waiting), BATCH):
        part = waiting[start : start + BATCH]
        found = searcher.find(
            [test[at] for at in part],
            None if vectors is None else vectors[part],
            lambda query, row, part=part: exclusion(part[query], row),  # type: ignore[misc]
        )
        for at, hits in zip(part, found, strict=True):
            examples = [[searcher.index.ids[hit.row], round(hit.score, 6)] for hit in hits]
            lines.add({"id": test[at].id, "examples": examples})
        progress(min(start + BATCH, len(waiting)), len(waiting))
    return exclusion


def stored(path: Path, fingerprint: str, test: Sequence[Document], top_n: int) -> Selection | None:
    """Return the selection in a file, or None if it is incomplete or was made with other settings."""
    rows = line_file.read(path, fingerprint)
    if rows is None or any(document.id not in rows for document in test):
        return None
    return selection_of(rows, test, top_n, path)


def selection_of(
    rows: Mapping[str, Mapping[str, Any]], test: Sequence[Document], top_n: int, path: Path
) -> Selection:
    """Return the selection in rows of a file. Raises InputError for a row without examples."""
    ids = {}
    for document in test:
        try:
            ids[document.id] = tuple(str(name) for name, _ in rows[document.id]["examples"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "a line of this file is not a selection", file=path, fix="delete this file"
            ) from None
    return Selection(ids=ids, top_n=top_n)
