"""The folder of an index: vectors, words, ids of the training documents, and a manifest with hashes, written last.

The fingerprint covers all that decides what a search finds. An index with another fingerprint is built again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medray import storage
from medray.config.icl import IclConfig
from medray.errors import InputError
from medray.icl.documents import Document
from medray.icl.index import lexical, vector_index
from medray.icl.index.lexical import WordIndex
from medray.icl.index.vector_index import VectorIndex, kind_of, ranks_of
from medray.storage import json_files

MANIFEST, IDS = "manifest.json", "ids.json"
REVISION = 1
_AGAIN = "delete this folder, and start the command again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """An index that can be searched.

    ids: of the documents, by row. vectors: None if nothing is embedded. recall: share of the ten most similar documents
    that the search finds; 1 for an exact one.
    """

    ids: tuple[str, ...]
    words: WordIndex
    vectors: VectorIndex | None
    fingerprint: str
    recall: float


def fingerprint(icl: IclConfig, train: Sequence[Document], encoder_digest: str | None, seed: int) -> str:
    """Return the hash of all that decides an index: the documents, the encoder and the kind of index."""
    digest = hashlib.sha256()
    kind = kind_of(icl.index, len(train)) if encoder_digest else None
    digest.update(json.dumps([REVISION, encoder_digest, kind, seed if kind == "ivf" else None]).encode())
    for document in train:
        digest.update(json.dumps([document.id, document.text]).encode())
    return digest.hexdigest()[:32]


def build(
    folder: Path,
    train: Sequence[Document],
    vectors: np.ndarray | None,
    icl: IclConfig,
    *,
    seed: int,
    fingerprint: str,
) -> Index:
    """Build the index of documents and write it to `folder`, completely or not at all.

    vectors: float32 [documents, size], or None for an index of words alone. An older index in the folder is replaced; a
    folder with other files is refused by an InputError.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise InputError(
            "this folder contains other files than an index",
            file=folder,
            key="icl.index_dir",
            fix="use an empty folder or a new one",
        )
    ids = tuple(document.id for document in train)
    words = lexical.build([document.text for document in train], ranks_of(ids))
    made = (
        None
        if vectors is None
        else vector_index.build(vectors, ids, kind_of(icl.index, len(train)), seed=seed)
    )
    recall = 1.0 if made is None else made.recall()
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        lexical.save(words, staging)
        if made is not None:
            vector_index.save(made, staging)
        storage.write(staging / IDS, json.dumps({"ids": ids}))
        manifest = {
            "fingerprint": fingerprint,
            "documents": len(ids),
            "kind": None if made is None else made.kind,
            "size": None if made is None else int(made.vectors.shape[1]),
            "recall": recall,
            "files": {
                str(file.relative_to(staging)): _hash(file)
                for file in sorted(staging.rglob("*"))
                if file.is_file()
            },
        }
        json_files.write_sealed(staging / MANIFEST, manifest)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_index(folder)


def stored_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of the index in a folder, or None if there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    found = json_files.read_sealed(folder / MANIFEST, fix=_AGAIN).get("fingerprint")
    return found if isinstance(found, str) else None


def open_index(folder: Path) -> Index:
    """Return the index in a folder, memory-mapped. Raises InputError if a file of it is missing, damaged or changed."""
    manifest = json_files.read_sealed(folder / MANIFEST, fix=_AGAIN)
    with json_files.checking(folder / MANIFEST, fix=_AGAIN):
        for name, expected in manifest["files"].items():
            if ".." in Path(name).parts or Path(name).is_absolute() or _hash(folder / name) != expected:
                raise InputError("this file of the index was changed", file=folder / name, fix=_AGAIN)
        ids = tuple(map(str, storage.read_json(folder / IDS, limit_bytes=json_files.LARGEST_TREE)["ids"]))
        if len(ids) != manifest["documents"]:
            raise InputError("this index has another number of documents", file=folder / IDS, fix=_AGAIN)
        vectors = _vectors(folder, ids, manifest)
        words = lexical.load(folder, ranks_of(ids))
        return Index(
            ids=ids,
            words=words,
            vectors=vectors,
            fingerprint=str(manifest["fingerprint"]),
            recall=float(manifest["recall"]),
        )


def _vectors(folder: Path, ids: Sequence[str], manifest: dict[str, Any]) -> VectorIndex | None:
    if manifest["kind"] is None:
        return None
    found = vector_index.load(folder, ids, manifest["kind"])
    if found.vectors.shape != (len(ids), manifest["size"]) or found.vectors.dtype != np.float32:
        raise InputError(
            "these vectors do not belong to this index", file=folder / vector_index.VECTORS, fix=_AGAIN
        )
    return found


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        raise InputError("this file of the index is missing", file=file, fix=_AGAIN) from None
    return digest.hexdigest()
