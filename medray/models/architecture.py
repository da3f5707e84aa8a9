"""A model's own config: where it comes from, and whether it has an encoder. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medray.config.model import PACKAGED_MODELS, ModelConfig
from medray.errors import InputError
from medray.models.packaged import ensure
from medray.models.presets import PRESETS, SEQ2SEQ_TYPES


def model_folder(model: ModelConfig) -> str | None:
    """The folder (or hub id) that weights, config and tokenizer come from; None for a preset without one."""
    if model.name in PACKAGED_MODELS:
        return str(ensure(model.name))
    return model.name


def model_config(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The Hugging Face config as a dict; vocab_size: for a preset, whose tokenizer decides."""
    if model.init == "random" and model.preset:
        return PRESETS[model.preset] | {"vocab_size": vocab_size}
    folder = model_folder(model)
    assert folder is not None
    if (Path(folder) / "config.json").is_file():
        return json.loads((Path(folder) / "config.json").read_text())
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model's config cannot be had ({error.__class__.__name__})",
            key="model.name",
            value=folder,
            mend="download it first, or give a local folder",
        ) from None
    return config.to_dict()


def architecture(config: dict[str, Any]) -> str:
    """causal or seq2seq."""
    return "seq2seq" if config.get("model_type") in SEQ2SEQ_TYPES else "causal"
