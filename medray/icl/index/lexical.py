"""The search by words: BM25 (bm25s), for the order of candidates and as a search without an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medray.icl.index.extra import library
from medray.icl.index.vector_index import Hit, ordered

FOLDER = "bm25"


@dataclass(frozen=True, kw_only=True, slots=True)
class WordIndex:
    """The words of documents. scorer: bm25s' index. id_ranks: see `vector_index.ranks_of`."""

    scorer: Any
    id_ranks: np.ndarray

    def scores(self, text: str) -> np.ndarray:
        """Return the BM25 score of each document for a text, float32 [documents]; 0 for one that shares no word."""
        known = [word for word in _words([text])[0] if word in self.scorer.vocab_dict]
        if not known:
            return np.zeros(len(self.id_ranks), dtype=np.float32)
        found: np.ndarray = self.scorer.get_scores(known)
        return found

    def scores_of(self, text: str, rows: Sequence[int]) -> np.ndarray:
        """Return the BM25 score of some documents for a text, float32 [rows]. The cost does not grow with the index."""
        asked, order = np.sort(np.asarray(rows)), np.argsort(np.asarray(rows))
        sums = np.zeros(len(rows), dtype=np.float32)
        stored = self.scorer.scores
        for word in _words([text])[0]:
            column = self.scorer.vocab_dict.get(word)
            if column is None:
                continue
            start, end = stored["indptr"][column : column + 2]
            documents = stored["indices"][start:end]  # in the order of the documents
            places = np.searchsorted(documents, asked)
            places[places == len(documents)] = 0
            found = documents[places] == asked if len(documents) else np.zeros(len(asked), dtype=bool)
            sums[order[found]] += stored["data"][start:end][places[found]]
        return sums

    def search(self, text: str, count: int, refused: Callable[[int], bool]) -> list[Hit]:
        """Return the `count` best documents for a text that share a word with it, best first."""
        scores = self.scores(text)
        rows = np.flatnonzero(scores > 0)
        fetch = count
        while True:
            if len(rows) > fetch:
                least = np.partition(scores[rows], len(rows) - fetch)[len(rows) - fetch]
                near = rows[scores[rows] >= least]  # with all documents that tie with the last
            else:
                near = rows
            hits = [Hit(int(row), float(scores[row])) for row in near if not refused(int(row))]
            if len(hits) >= count or len(near) == len(rows):
                return ordered(hits, self.id_ranks)[:count]
            fetch *= 2


def build(texts: Sequence[str], id_ranks: np.ndarray) -> WordIndex:
    """Return the index of texts. id_ranks: see `vector_index.ranks_of`."""
    scorer = library("bm25s").BM25()
    words = _words(texts)
    if any(words):
        scorer.index(words, show_progress=False)
    else:
        scorer.vocab_dict = {}
    return WordIndex(scorer=scorer, id_ranks=id_ranks)


def save(index: WordIndex, folder: Path) -> None:
    """Write the files of an index into a folder of `folder`."""
    index.scorer.save(folder / FOLDER, show_progress=False)


def load(folder: Path, id_ranks: np.ndarray) -> WordIndex:
    """Return the index in `folder`, memory-mapped."""
    scorer = library("bm25s").BM25.load(folder / FOLDER, mmap=True, allow_pickle=False, show_progress=False)
    return WordIndex(scorer=scorer, id_ranks=id_ranks)


def _words(texts: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = library("bm25s").tokenize(
        list(texts), stopwords=None, return_ids=False, show_progress=False
    )
    return found
