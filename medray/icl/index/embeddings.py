"""Cached vectors of texts. Vectors that were computed once, also by a run that was killed, are read from disk.

Vectors are stored under the digest of their encoder in parts that are never changed, and found by the hash of the text.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medray.errors import InputError
from medray.icl.index.encoder import EncoderSpec, embed

PART_TEXTS = 256  # texts of a part; a killed run loses at most one part
RAY_PART_TEXTS = 65_536
_KEY_BYTES = 16
Embed = Callable[[Sequence[str], EncoderSpec], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The vectors of texts, float32 [texts, size], in the order of the texts. computed: texts that were not in the cache."""

    vectors: np.ndarray
    computed: int


def embedded(
    texts: Sequence[str],
    spec: EncoderSpec,
    cache: Path,
    *,
    embed_texts: Embed = embed,
    part_texts: int = PART_TEXTS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Return the vectors of texts, from the cache as far as they are there.

    cache: folder of all caches. embed_texts: how missing vectors are computed. progress: called with (texts computed,
    texts to compute) after each part. Raises InputError if a part of the cache is damaged.
    """
    folder = cache / spec.digest
    keys = [text_key(text) for text in texts]
    missing = _missing(keys, texts, folder)
    pending = sorted(missing, key=lambda key: (-len(missing[key]), key))  # a part needs little padding
    for start in range(0, len(pending), part_texts):
        part = pending[start : start + part_texts]
        vectors = embed_texts([missing[key] for key in part], spec)
        _write_part(folder, part, vectors)
        progress(min(start + part_texts, len(pending)), len(pending))
    return Embedded(vectors=_gathered(keys, folder), computed=len(pending))


def count_missing(texts: Sequence[str], spec: EncoderSpec, cache: Path) -> int:
    """Return the number of different texts whose vectors are not in the cache."""
    return len(_missing([text_key(text) for text in texts], texts, cache / spec.digest))


def text_key(text: str) -> bytes:
    """Return the key of a text in the cache, 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _missing(keys: Sequence[bytes], texts: Sequence[str], folder: Path) -> dict[bytes, str]:
    missing = dict(zip(keys, texts, strict=True))
    for file in _parts(folder):
        for key in _keys(_tensors(file, "keys"), file):
            missing.pop(key, None)
    return missing


def _gathered(keys: Sequence[bytes], folder: Path) -> np.ndarray:
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    vectors: np.ndarray | None = None
    for file in _parts(folder):
        found = [
            (number, key) for number, key in enumerate(_keys(_tensors(file, "keys"), file)) if key in rows
        ]
        if not found:
            continue
        stored = _tensors(file, "vectors")
        if vectors is None:
            vectors = np.empty((len(keys), stored.shape[1]), dtype=np.float32)
        if stored.ndim != 2 or stored.shape[1] != vectors.shape[1] or not np.isfinite(stored).all():
            raise _damaged(file)
        for number, key in found:
            vectors[rows.pop(key)] = stored[number]
    if rows or vectors is None:
        raise InputError(
            f"{len(rows)} vectors disappeared from the cache while it was read",
            file=folder,
            fix="start the command again",
        )
    return vectors


def _parts(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("part-*.safetensors")))


def _tensors(file: Path, name: str) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            found: np.ndarray = opened.get_tensor(name)
    except (SafetensorError, OSError, ValueError):
        raise _damaged(file) from None
    return found


def _keys(stored: np.ndarray, file: Path) -> list[bytes]:
    if stored.dtype != np.uint8 or stored.ndim != 2 or stored.shape[1] != _KEY_BYTES:
        raise _damaged(file)
    return [row.tobytes() for row in stored]


def _damaged(file: Path) -> InputError:
    return InputError("this part of the cache of embeddings is damaged", file=file, fix="delete this file")


def _write_part(folder: Path, keys: Sequence[bytes], vectors: np.ndarray) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stored = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), _KEY_BYTES)
    name = f"part-{uuid.uuid4().hex}.safetensors"
    temporary = folder / f".{name}"
    save_file({"keys": stored, "vectors": np.ascontiguousarray(vectors, dtype=np.float32)}, temporary)
    os.replace(temporary, folder / name)
