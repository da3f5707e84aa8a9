"""Embeddings for every token that the tokenizer knows."""

from __future__ import annotations

from typing import Any

import torch

from medray.errors import InputError


def with_vocabulary(model: Any, tokenizer: Any, seed: int) -> Any:
    """The model, its embeddings and head enlarged where the tokenizer has tokens beyond them.

    New rows begin at the mean of the old ones with their spread, drawn from `seed`: the same on every rank. Many models
    have more rows than their tokenizer has tokens; those stay.
    """
    known = 0 if tokenizer is None else len(tokenizer)
    if known <= rows(model):
        return model
    torch.manual_seed(seed)
    model.resize_token_embeddings(known)
    model.medray_resized = True
    return model


def refuse_untrained_tokens(model: Any, peft_type: str) -> None:
    """Raises InputError where an adapter would leave new tokens at their random embeddings."""
    if getattr(model, "medray_resized", False):
        raise InputError(
            f"the tokenizer has tokens that the model has no embeddings for, and {peft_type} would not train the new ones",
            key="peft.type",
            value=peft_type,
            mend="peft.type: none, or enlarge and train the model's embeddings first",
        )


def rows(model: Any) -> int:
    """Rows of the input embeddings, also where ZeRO-3 has sharded them."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])
