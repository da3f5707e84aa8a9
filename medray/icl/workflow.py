"""The steps of a run of `medray icl`, each of which reads what the step before left and is skipped if it is done.

A run's folder has `index/`, `selected.jsonl` and `best_example.json`; `prompts.py`, `answering.py` and `scores.py` add
theirs. Each file carries a fingerprint of all that decides it, so that a changed key repeats the steps that it changes and
no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medray import storage
from medray.config.icl import IclConfig, IclFile
from medray.icl import line_file
from medray.icl.documents import Document, Documents, load, run_folder
from medray.icl.index import index_folder
from medray.icl.index.embeddings import PART_TEXTS, RAY_PART_TEXTS, count_missing, embedded
from medray.icl.index.encoder import EncoderSpec, encoder_specs
from medray.icl.index.extra import check_installed
from medray.icl.index.index_folder import Index
from medray.icl.selection.cross_encoder import LoadedCrossEncoder
from medray.icl.selection.select import (
    Searcher,
    Selection,
    select,
    selection_fingerprint,
    selection_of,
    stored,
)

EMBEDDINGS = "embeddings"  # the cache of all runs in a storage
SELECTED, BEST = "selected.jsonl", "best_example.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """The console of a run. phase: (name, detail). progress: (name, done, total)."""

    phase: Callable[[str, str], None] = lambda name, detail: None
    progress: Callable[[str, int, int], None] = lambda name, done, total: None


class Workflow:
    """The steps of one config file. The caller holds the lock of the folder.

    cluster: a context in which Ray is connected, for large embedding jobs. Raises InputError if a library of the extra
    `icl` is missing.
    """

    def __init__(
        self,
        file: IclFile,
        watch: Watch | None = None,
        cluster: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        check_installed("bm25s", *(["faiss"] if file.icl.embeds else []))
        self.file, self.icl = file, file.icl
        self.watch = watch or Watch()
        self._cluster = cluster
        self.folder = run_folder(file)
        self.index_folder = Path(file.icl.index_dir) if file.icl.index_dir else self.folder / "index"

    def with_icl(self, icl: IclConfig) -> Workflow:
        """Return the workflow of the same folder and documents with another section `icl`."""
        made = Workflow(self.file.model_copy(update={"icl": icl}), self.watch, self._cluster)
        made.documents = self.documents
        return made

    @cached_property
    def documents(self) -> Documents:
        """Return the documents of the run."""
        found = load(self.file)
        self.watch.phase(
            "documents",
            f"{len(found.train):,} for training, {len(found.test):,} to answer"
            + (f"; {found.bad_rows:,} bad rows" if found.bad_rows else "")
            + (f"; {found.repeated:,} with the id of another one" if found.repeated else ""),
        )
        return found

    @cached_property
    def encoders(self) -> tuple[EncoderSpec, EncoderSpec] | None:
        """Return the encoders of training and of test documents; None if nothing is embedded."""
        return encoder_specs(self.icl) if self.icl.embeds else None

    def vectors(self, documents: Sequence[Document], spec: EncoderSpec) -> np.ndarray:
        """Return the vectors of documents, float32 [documents, size], from the cache as far as they are there."""
        texts = [document.text for document in documents]
        cache = Path(self.file.run.storage) / EMBEDDINGS

        def progress(done: int, total: int) -> None:
            self.watch.progress("embedding", done, total)

        missing = count_missing(texts, spec, cache)
        if missing <= self.icl.ray_above:
            if missing:
                self.watch.phase("embedding", f"{missing:,} texts in this process")
            return embedded(texts, spec, cache, progress=progress, part_texts=PART_TEXTS).vectors
        self.watch.phase("embedding", f"{missing:,} texts as a Ray Data job")
        with self._cluster():
            from medray.icl.index.embedding_job import embed_by_ray

            return embedded(
                texts, spec, cache, embed_texts=embed_by_ray, part_texts=RAY_PART_TEXTS, progress=progress
            ).vectors

    @cached_property
    def index(self) -> Index:
        """Return the index of the training documents. Build it if it is missing or belongs to other settings."""
        train, encoders = self.documents.train, self.encoders
        wanted = index_folder.fingerprint(
            self.icl, train, None if encoders is None else encoders[0].digest, self.file.run.seed
        )
        if index_folder.stored_fingerprint(self.index_folder) == wanted:
            self.watch.phase("index", f"{self.index_folder} is up to date")
            return index_folder.open_index(self.index_folder)
        vectors = None if encoders is None else self.vectors(train, encoders[0])
        self.watch.phase("index", f"building {self.index_folder}")
        return index_folder.build(
            self.index_folder, train, vectors, self.icl, seed=self.file.run.seed, fingerprint=wanted
        )

    @cached_property
    def selection(self) -> Selection:
        """Return the examples of the test documents. Select those that are missing."""
        found = self.select(self.documents.test, self.folder / SELECTED)
        storage.write(
            self.folder / BEST,
            json.dumps({name: list(ids) for name, ids in found.ids.items()}, ensure_ascii=False, indent=1),
        )
        return found

    def select(self, test: Sequence[Document], path: Path, k: int | None = None) -> Selection:
        """Return the examples of documents, stored in the file `path`. k: replaces `icl.k`."""
        icl = self.icl if k is None else self.icl.model_copy(update={"k": k})
        encoders = self.encoders
        fingerprint = selection_fingerprint(
            icl, self.index, self.documents.train, test, None if encoders is None else encoders[1].digest
        )
        if (done := stored(path, fingerprint, test, icl.top_n)) is not None:
            self.watch.phase("selection", f"{path.name} is up to date")
            return done
        vectors = None if encoders is None else self.vectors(test, encoders[1])
        searcher = Searcher(
            icl=icl,
            index=self.index,
            train=self.documents.train,
            cross_encoder=LoadedCrossEncoder(icl.rerank_model, windows=icl.rerank_long == "windows")
            if icl.rerank_model
            else None,
        )
        self.watch.phase("selection", f"{len(test):,} documents")
        with line_file.opened(path, fingerprint) as lines:
            exclusion = select(
                searcher,
                test,
                vectors,
                lines,
                lambda done, all_: self.watch.progress("selection", done, all_),
            )
            rows = dict(lines.rows)
        if exclusion.refused:
            listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(exclusion.refused.items()))
            self.watch.phase("selection", f"refused as examples: {listed}")
        return selection_of(rows, test, icl.top_n, path)
