"""The number of positions of a model, read from its modules on the meta device, without weights.

A table with one row per position (an embedding, or a buffer of sines) raises an IndexError past its end, which a GPU
reports as a device-side assert. Rotary positions are computed, so a longer row still runs, at positions that the model was
not trained on. Relative positions (T5), ALiBi and recurrent models have no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from medray.models.load import skeleton

_OFFSETS = 8  # rows that a table may have more than positions (OPT and BART: 2)


@dataclass(frozen=True)
class Positions:
    """The maximum sequence lengths of a model in tokens; None means no limit.

    source: limit of a causal model's sequence, or of an encoder's input. target: limit of a decoder's target (seq2seq).
    hard: a longer row cannot be computed. Otherwise it can be, but the model was not made for it.
    """

    source: int | None = None
    target: int | None = None
    hard: bool = False


def positions(config: dict[str, Any]) -> Positions:
    """Return the longest sequences of the model that this `config.json` describes.

    Unless the model has rotary positions, it is built on the meta device.
    """
    resolved = _resolved(config)
    text = resolved.get_text_config(decoder=True)
    if text.model_type == "mpt":  # ALiBi from a table of this length
        return Positions(source=text.max_seq_len, hard=True)
    if getattr(text, "alibi", False):
        return Positions()
    if getattr(text, "rope_parameters", None) and not resolved.is_encoder_decoder:
        return Positions(source=getattr(text, "max_position_embeddings", None))
    model: Any = skeleton(config)
    sizes = _sizes(resolved, text)
    if not resolved.is_encoder_decoder:
        hard, limit = _limit(model, sizes)
        limit = _without_the_next(resolved, limit)
        return Positions(source=limit, hard=hard)
    (hard_source, source), (hard_target, target) = (
        _limit(half, sizes) for half in (model.get_encoder(), model.get_decoder())
    )
    return Positions(source, _without_the_next(resolved, target), hard_source or hard_target)


def _without_the_next(resolved: Any, limit: int | None) -> int | None:
    """Return the limit, minus 1 for ProphetNet: its decoder predicts two tokens at once, so it reads one more position."""
    return limit - 1 if limit is not None and "prophetnet" in resolved.model_type else limit


def _resolved(config: dict[str, Any]) -> Any:
    """Return the config, completed with the defaults of its transformers class."""
    from transformers import AutoConfig

    values = {name: value for name, value in config.items() if name not in ("model_type", "_name_or_path")}
    return AutoConfig.for_model(config["model_type"], **values)


def _sizes(*configs: Any) -> set[int]:
    """Return all numbers in the configs that may be a number of positions, under any key."""
    found = {getattr(config, "max_position_embeddings", None) for config in configs}
    for config in configs:
        found |= {value for name, value in config.to_dict().items() if "position" in name or name == "n_ctx"}
    return {size for size in found if isinstance(size, int) and not isinstance(size, bool) and size > 0}


def _limit(module: nn.Module, sizes: set[int]) -> tuple[bool, int | None]:
    """Return (whether a longer sequence fails, positions of the smallest table) of a model, an encoder or a decoder."""
    hard: list[int] = []
    soft: list[int] = []
    for rows, padding, grows in _tables(module):
        fitting = [size for size in sizes if 0 <= rows - size <= _OFFSETS]
        if fitting:
            # RoBERTa and FSMT count positions from the index after their padding token; FSMT's table has rows for that.
            usable = rows if padding is None else rows - padding - 1
            (soft if grows else hard).append(min(max(fitting), usable))
    return bool(hard), min(hard or soft, default=None)


def _tables(module: nn.Module) -> Iterator[tuple[int, int | None, bool]]:
    """Yield (rows, padding index, whether it grows for a longer sequence) for each possible table of positions."""
    for name, child in _named(module):
        grows = hasattr(child, "make_weights") or hasattr(child, "make_weight")  # FSMT
        if isinstance(child, nn.Embedding):
            yield child.num_embeddings, child.padding_idx if "position" in name else None, grows
        for buffer in child.buffers(recurse=False):
            if buffer.ndim == 2 and buffer.shape[0] != buffer.shape[1]:
                yield buffer.shape[0], None, grows


def _named(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Return the named modules except those of the vocabulary, whose size may equal the number of positions by chance."""
    words = getattr(module, "get_input_embeddings", lambda: None)()
    return (pair for pair in module.named_modules() if pair[1] is not words and "tokens" not in pair[0])
