"""Virtual tokens, which prompt and prefix adapters put before a text: what forward passes and generation must know of
them.

peft passes no positions to the model. So the padding of a row, which is between the virtual tokens and the text, would
count as a distance, and the loss of a row would depend on the other rows of the batch. Here positions are those of the
row without padding, in training and in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

LABEL, OTHER = 0, 1  # task ids of a multitask prompt


def adapter_of(model: Any) -> Any:
    """Return peft's settings of the adapter, None without one or while it is off. model: may be inside a DeepSpeed engine."""
    inner = getattr(model, "module", model)
    if getattr(inner, "_adapters_disabled", False):
        return None
    settings = getattr(inner, "peft_config", None)
    return settings.get("default") if isinstance(settings, dict) else None


def leading(model: Any) -> int:
    """Return the number of output positions before the first token of the text.

    This is the length of a prompt; a prefix is in the cache instead and has no output positions.
    """
    settings = adapter_of(model)
    found = settings is not None and settings.is_prompt_learning and not _is_prefix(settings)
    return int(settings.num_virtual_tokens) if found else 0


def drops_decoder_ids(model: Any) -> bool:
    """Return whether peft makes the decoder's input from the labels and ignores `decoder_input_ids`."""
    settings = adapter_of(model)
    return settings is not None and settings.peft_type.value == "MULTITASK_PROMPT_TUNING"


def task_inputs(model: Any, tasks: Sequence[str], device: Any) -> dict[str, Tensor]:
    """Return {"task_ids": [rows]} if the adapter needs to know the task of each row; empty for other adapters."""
    settings = adapter_of(model)
    if settings is None or settings.peft_type.value != "MULTITASK_PROMPT_TUNING":
        return {}
    return {"task_ids": torch.tensor([LABEL if task == "label" else OTHER for task in tasks], device=device)}


def keep_positions(adapted: Any) -> Any:
    """Make a peft model with virtual tokens use the positions that it is given.

    Return the model; others are unchanged.
    """
    settings = adapter_of(adapted)
    if settings is not None and settings.is_prompt_learning and not _is_prefix(settings):
        adapted._adjust_prompt_learning_kwargs = MethodType(_with_positions, adapted)
    return adapted


def _with_positions(
    self: Any, peft_config: Any, *, kwargs: dict[str, Any], remove_token_type_ids: bool = True
) -> None:
    """Set positions: first the prompt's, then the text's. This replaces peft's method, which drops positions."""
    positions = kwargs.pop("position_ids", None)
    type(self)._adjust_prompt_learning_kwargs(
        self, peft_config, kwargs=kwargs, remove_token_type_ids=remove_token_type_ids
    )
    if positions is None:
        return
    count, cache = peft_config.num_virtual_tokens, kwargs.get("past_key_values")
    moved = positions + count
    if cache is None or not cache.get_seq_length():
        first = torch.arange(count, device=positions.device).expand(len(positions), -1)
        moved = torch.cat([first, moved], dim=1)
    kwargs["position_ids"] = moved


def _is_prefix(settings: Any) -> bool:
    return bool(settings.peft_type.value == "PREFIX_TUNING")
