"""Checks of `method` against the rest of a config. Keys that would have no effect are refused, not ignored."""

from __future__ import annotations

from medray.config import Config
from medray.config.checks.distill import check_distill
from medray.config.checks.dpo import check_dpo
from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import trains_rationales
from medray.errors import InputError


def check_method(config: Config) -> None:
    """Raise InputError for the first setting of `method` that cannot work, whatever the model is."""
    method = config.method
    check_distill(method)
    check_dpo(config)
    encodings = spec_of(method).encodings
    if encodings is not None and config.train.loss_chunk_tokens:
        raise InputError(
            f"this key has no effect with {encodings.key}: {encodings.value}, which computes all logits at once",
            key="train.loss_chunk_tokens",
            value=config.train.loss_chunk_tokens,
            fix=f"remove train.loss_chunk_tokens, or use {encodings.without}",
        )


def check_architecture(config: Config, *, seq2seq: bool) -> None:
    """Raise InputError if the method needs an encoder-decoder and the model is causal."""
    encodings = spec_of(config.method).encodings
    if encodings is not None and not seq2seq:
        raise InputError(
            "this method compares the encodings of two inputs, but the model is causal: a causal model has no encoder",
            key=encodings.key,
            value=encodings.value,
            fix=f"use an encoder-decoder such as google/flan-t5-base, or {encodings.without}",
        )


def notes(config: Config) -> tuple[str, ...]:
    """Return a sentence for each setting that is allowed but may surprise the user."""
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
