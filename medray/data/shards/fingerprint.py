"""The fingerprint: a hash of everything that determines the tokens.

A later run with the same fingerprint reuses the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from medray import storage
from medray.config import Config
from medray.data.encode.encoder import ENCODER_VERSION, EncodeSpec
from medray.data.index.sources import Source
from medray.errors import InputError
from medray.storage import StoragePath
from medray.storage.json_files import digest

INDEX_VERSION = 2
YOUNGER_FIELDS = (
    "skip_null",
    "draw_seed",
    "appends_keys",
    "required",
    "whole",
    "max_prompt_tokens",
    "key_column",
)  # fields of EncodeSpec, each with the default that old shards had
_ALWAYS = object()


def content_hashes(
    sources: Sequence[Source], cache: StoragePath, *, compute: bool = True
) -> list[str] | None:
    """Return a hash of the content of each source. Hashes are cached in `cache`, by the sources' stamps.

    compute: whether sources without a cached hash are read; if not, and one has none, the result is None.
    """
    hashes = []
    for source in sources:
        stamp = source.stamp()
        file = cache / f"{hashlib.sha256(repr(source).encode()).hexdigest()[:20]}.json"
        known = _read(file)
        if not stamp or known.get("stamp") != stamp:
            if not compute:
                return None
            known = {"stamp": stamp, "sha256": source.content_hash()}
            if stamp:
                cache.mkdir(parents=True, exist_ok=True)
                storage.write(file, json.dumps(known))
        hashes.append(known["sha256"])
    return hashes


def _read(file: StoragePath) -> dict[str, str]:
    try:
        known = storage.read_json(file)
    except (OSError, InputError):
        return {}
    return known if isinstance(known.get("sha256"), str) else {}


def membership_key(config: Config, hashes: Mapping[str, Sequence[str]], extra: Mapping[str, Any]) -> str:
    """Return a hash of everything that determines which rows are in which split and shard."""
    data = config.data
    decisive = {
        "sources": {split: list(found) for split, found in hashes.items()},
        "shard_rows": data.shard_rows,
        "split": data.split.decisive(),
        "subsample": [data.subsample, config.run.seed if data.subsample < 1 else None],
        "leakage": data.leakage,
        "duplicates": data.duplicates,
        "version": INDEX_VERSION,
        **extra,
    }
    return digest(decisive)


def token_key(membership: str, spec: EncodeSpec, tokenizer: str) -> str:
    """Return the fingerprint: a hash of the rows and of everything that decides how they become tokens.

    Loss weights and learning rates are not part of it. A setting that was added to EncodeSpec later counts only if it
    is not at its default, so that older shards stay valid.
    """
    encode = asdict(spec)
    younger = {field.name: field.default for field in fields(spec) if field.name in YOUNGER_FIELDS}
    decisive = {
        "membership": membership,
        "encode": {name: value for name, value in encode.items() if younger.get(name, _ALWAYS) != value},
        "tokenizer": tokenizer,
        "version": ENCODER_VERSION,
    }
    return digest(decisive)[:20]
