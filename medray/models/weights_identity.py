"""A name for the weights that a run begins with: equal weights have equal names on any machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medray import storage
from medray.config.model import PACKAGED_MODELS, ModelConfig
from medray.data.files import content_hash, stamp
from medray.errors import InputError
from medray.plan.model_config import model_folder
from medray.storage import StoragePath

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json")


def weights_identity(
    model: ModelConfig, config: dict[str, Any], *, tokens: int, seed: int, precision: str, cache: StoragePath
) -> str:
    """Return a hash of the weights that a run begins with, including its adapter and the type in which they are computed.

    config: the model's config.json as a dict. tokens: size of the tokenizer; embeddings of tokens beyond those of the
    model are drawn from `seed`. cache: folder in which hashes of files are kept under their size and
    modification time, because hashing large weights takes minutes. The weights of a hub id are named by the commit
    that was downloaded.
    """
    parts: dict[str, Any] = {
        "precision": precision,
        "quantization": [model.quantization, model.double_quantization, model.compute_dtype],
    }
    if model.init == "random":
        parts["random"] = [seed, json.dumps(config, sort_keys=True, default=str)]
    elif model.name in PACKAGED_MODELS:
        package = PACKAGED_MODELS[model.name].package
        parts["packaged"] = [model.name, importlib.metadata.version(package)]
    else:
        parts["weights"] = of_folder(str(model_folder(model)), cache)
    if model.init == "pretrained" and tokens > (config.get("vocab_size") or 0):
        parts["new embeddings"] = seed
    if model.adapter:
        parts["adapter"] = of_folder(model.adapter, cache)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def of_folder(place: str, cache: StoragePath | None = None) -> Sequence[Any]:
    """Return [name, hash] of each file of weights in a folder, or [hub id, commit]. cache: see `weights_identity`."""
    folder = Path(place)
    if not folder.is_dir():
        return [place, _commit(place)]
    files = sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})
    return [[file.name, _hash(file, cache)] for file in files]


def _hash(file: Path, cache: StoragePath | None) -> str:
    if cache is None:
        return content_hash(str(file))
    entry = cache / f"weights-{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:20]}.json"
    known: dict[str, Any] = {}
    try:
        known = storage.read_json(entry)
    except (OSError, InputError):
        known = {}
    now = stamp(str(file))
    if known.get("stamp") != now or not isinstance(known.get("sha256"), str):
        known = {"stamp": now, "sha256": content_hash(str(file))}
        cache.mkdir(parents=True, exist_ok=True)
        storage.write(entry, json.dumps(known))
    return str(known["sha256"])


def _commit(hub_id: str) -> str:
    """The commit of a downloaded model: the name of the folder that its config was read from."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found).parent.name if isinstance(found, str) else ""
