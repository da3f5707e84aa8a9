"""A small export of medray: an adapter that was moved at random, with everything that says how it is asked."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import tiny
import torch

from medray.config import Config
from medray.config.peft import PeftConfig
from medray.data.shards.token_split import TokenSet
from medray.models.adapters import add_adapter
from medray.models.export import export, load_export
from medray.models.export.usage import base_of_model, usage, write_usage

CPU = torch.device("cpu")


def exported(folder: Path, tokens: TokenSet) -> Path:
    """Write an export with an adapter that has been moved at random."""
    model = tiny.saved_model(folder / "base", "llama-tiny", tokens)
    torch.manual_seed(4)
    loaded: Any = load_export(folder / "base", CPU)
    loaded = add_adapter(loaded, PeftConfig(type="lora"), seq2seq=False, seed=0)
    with torch.no_grad():
        for one in loaded.parameters():
            one.add_(torch.randn_like(one), alpha=0.3 * one.requires_grad)
    export(loaded, tokens.load_tokenizer(), folder / "export", write=True, gathered=lambda one: nullcontext())
    config = Config.model_validate({"model": model})
    write_usage(
        folder / "export",
        usage(
            tokens.spec,
            tokens.load_tokenizer(),
            tokens,
            format="adapter",
            base=base_of_model(config.model, str(folder / "base")),
            dtype="fp32",
            adapter="lora",
            model={},
            max_new_tokens=7,
            num_beams=2,
        ),
    )
    return folder / "export"
