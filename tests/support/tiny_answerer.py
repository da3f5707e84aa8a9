"""A tiny model that is loaded and asked, with weights that are large enough for varied answers."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch

from medray.data.shards.token_split import TokenSet
from medray.evaluate.asking import Answerer, AskedModel
from medray.evaluate.decoding import Decoding

CPU = torch.device("cpu")


def tiny_answerer(
    folder: Path, architecture: str = "causal", *, prompted: bool = True, max_new_tokens: int = 9
) -> Answerer:
    """Load a model from `folder`, where its weights are written first."""
    return Answerer(asked_tiny(folder, architecture, prompted=prompted, max_new_tokens=max_new_tokens), CPU)


def asked_tiny(
    folder: Path, architecture: str = "causal", *, prompted: bool = True, max_new_tokens: int = 9
) -> AskedModel:
    """Write a model with its tokenizer to `folder`/base."""
    tokens = tiny.token_set(folder, tiny.rows(3), architecture=architecture)
    _write(folder / "base", "llama-tiny" if architecture == "causal" else "t5-tiny", tokens)
    return AskedModel(
        weights=str(folder / "base"),
        tokenizer=tokens.tokenizer,
        spec=tokens.spec,
        prompted=prompted,
        decoding=Decoding(max_new_tokens=max_new_tokens),
        tuned=False,
    )


def _write(folder: Path, preset: str, tokens: TokenSet) -> None:
    from medray.models.export import load_export

    tiny.saved_model(folder, preset, tokens)
    model = load_export(folder, CPU)
    torch.manual_seed(4)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one), alpha=0.3)
    model.save_pretrained(folder)  # type: ignore[operator]
