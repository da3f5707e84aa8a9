"""Checks of `method` against the rest of a config. A key that would have no effect is refused, not ignored."""

from __future__ import annotations

from medray.config import Config
from medray.config.checks.distill import check_distill
from medray.config.checks.dpo import check_dpo
from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import trains_rationales
from medray.errors import InputError


def check_method(config: Config) -> None:
    """Raise InputError for the first setting that cannot work with any model."""
    method = config.method
    check_distill(method)
    check_dpo(config)
    encodings = spec_of(method).encodings
    if encodings is not None and config.train.loss_chunk_tokens:
        raise InputError(
            f"has no effect with {encodings.key}: {encodings.value}, whose forward computes all logits at once",
            key="train.loss_chunk_tokens",
            value=config.train.loss_chunk_tokens,
            fix=f"remove train.loss_chunk_tokens, or use {encodings.without}",
        )


def check_architecture(config: Config, *, seq2seq: bool) -> None:
    """Raise InputError for a method that needs another kind of model."""
    encodings = spec_of(config.method).encodings
    if encodings is not None and not seq2seq:
        raise InputError(
            "compares the encodings of two inputs, but a causal model has no encoder: the states of its prompt are those "
            "from which it writes the answer",
            key=encodings.key,
            value=encodings.value,
            fix=f"use an encoder-decoder such as google/flan-t5-base, or {encodings.without}",
        )


def notes(config: Config) -> tuple[str, ...]:
    """Return sentences on settings that are allowed but may surprise."""
    method = config.method
    found = list(spec_of(method).notes)
    given = [
        f"method.{name}"
        for name in ("alpha", "label_weight")
        if getattr(method, name) != MethodConfig.model_fields[name].default
    ]
    if not trains_rationales(method) and given:
        why = "mode: standard" if method.name == "distill" else f"name: {method.name}"
        verb = "is" if len(given) == 1 else "are"
        found.append(f"{' and '.join(given)} {verb} ignored: with method.{why}, no rationale is trained")
    return tuple(found)
