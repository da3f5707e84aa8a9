"""What the keys of `method` contradict each other in: a key that would have no effect is refused, not ignored."""

from __future__ import annotations

from typing import Any

from medray.config import Config
from medray.config.method import AlphaScheduleConfig, MethodConfig, RationaleConfig
from medray.errors import InputError


def check_method(config: Config) -> None:
    """Raises InputError for the first thing that cannot work with any model."""
    method = config.method
    _check_variant(method)
    _check_owners(method)
    _check_alpha(method)
    if config.method.variant == "cosine" and config.train.loss_chunk_tokens:
        raise InputError(
            "has no effect with method.variant: cosine, whose forward makes all logits at once",
            key="train.loss_chunk_tokens",
            value=config.train.loss_chunk_tokens,
            fix="leave it out, or method.variant: null",
        )
    if method.key_source == "generated":
        raise InputError(
            "key words are not generated in a run yet: what the model itself writes is not read back",
            key="method.key_source",
            value="generated",
            fix="method.key_source: gold, with the key words of a model in a column named by data.columns.rationale",
        )


def check_architecture(config: Config, *, seq2seq: bool) -> None:
    """Raises InputError for a variant that needs another kind of model."""
    if config.method.variant == "cosine" and not seq2seq:
        raise InputError(
            "compares what an encoder makes of two inputs, and a causal model has no encoder: the states of its prompt "
            "are those that it writes from",
            key="method.variant",
            value="cosine",
            fix="an encoder-decoder such as google/flan-t5-base, or method.variant: null",
        )


def notes(config: Config) -> tuple[str, ...]:
    """Sentences on what is no mistake and yet may surprise."""
    method, found = config.method, []
    given = [
        f"method.{name}"
        for name in ("alpha", "label_weight")
        if getattr(method, name) != MethodConfig.model_fields[name].default
    ]
    if not method.two_tasks and given:
        why = "mode: standard" if method.name == "distill" else "name: sft"
        verb = "is" if len(given) == 1 else "are"
        found.append(f"{' and '.join(given)} {verb} ignored: with method.{why} the label is all there is")
    if method.variant == "two_step":
        found.append(
            "two_step: validation rows bring their own key words, so metrics are those of a model that is told them"
        )
    return tuple(found)


def _check_variant(method: MethodConfig) -> None:
    variant = method.variant
    if variant is None:
        return
    if method.name != "distill":
        raise InputError(
            "is a variant of distillation",
            key="method.variant",
            value=variant,
            fix="method.name: distill, or method.variant: null",
        )
    if variant != "two_step" and not method.two_tasks:
        raise InputError(
            "is about the rationale task, and with method.mode: standard there is none",
            key="method.variant",
            value=variant,
            fix="method.mode: task_prefix, or method.variant: null",
        )
    if variant in ("hierarchical", "cosine") and method.loss_norm == "micro_batch":
        raise InputError(
            f"reproduces published runs, and not those of the variant {variant}",
            key="method.loss_norm",
            value="micro_batch",
            fix="method.loss_norm: token",
        )


def _check_owners(method: MethodConfig) -> None:
    """Keys that one variant alone reads."""
    rationale, schedule = RationaleConfig(), AlphaScheduleConfig()
    owned: list[tuple[str, Any, Any, str]] = [
        (f"rationale.{name}", getattr(method.rationale, name), getattr(rationale, name), "hierarchical")
        for name in ("keys", "max_keys", "reduction", "skip_null")
    ]
    owned += [
        (f"alpha_schedule.{name}", getattr(method.alpha_schedule, name), default, "dynamic_alpha")
        for name, default in schedule.model_dump().items()
    ]
    owned.append(("key_source", method.key_source, "gold", "two_step"))
    for name, value, default, variant in owned:
        if value != default and method.variant != variant:
            raise InputError(
                f"has no effect without method.variant: {variant}",
                key=f"method.{name}",
                value=list(value) if isinstance(value, tuple) else value,
                fix=f"method.variant: {variant}, or leave it out",
            )
    if method.rationale.several != "join" and not method.reads_rationales:
        raise InputError(
            "has no effect where no rationale is read",
            key="method.rationale.several",
            value=method.rationale.several,
            fix="method.name: distill with mode: task_prefix, or leave it out",
        )
    if method.rationale.several != "join" and method.variant == "hierarchical":
        raise InputError(
            "is about lists, and method.variant: hierarchical trains on keys with a text each",
            key="method.rationale.several",
            value=method.rationale.several,
            fix="method.rationale.several: join",
        )


def _check_alpha(method: MethodConfig) -> None:
    schedule = method.alpha_schedule
    if method.variant in ("hierarchical", "cosine") and (
        method.alpha == 1 or (method.variant == "cosine" and method.alpha == 0)
    ):
        raise InputError(
            f"leaves a task without weight, and method.variant: {method.variant} is about it",
            key="method.alpha",
            value=method.alpha,
            fix="method.alpha: 0.5",
        )
    if not method.dynamic:
        return
    if schedule.start is not None and method.alpha != MethodConfig.model_fields["alpha"].default:
        raise InputError(
            "is given too, and alpha starts with one value",
            key="method.alpha_schedule.start",
            value=schedule.start,
            fix="leave out method.alpha_schedule.start, or method.alpha",
        )
    if method.start_alpha > schedule.cap:
        raise InputError(
            f"is below what alpha starts with, {method.start_alpha:g}",
            key="method.alpha_schedule.cap",
            value=schedule.cap,
            fix=f"method.alpha_schedule.cap: {method.start_alpha:g}, or a lower start",
        )
    if schedule.slope == 0:
        raise InputError(
            "alpha would not move",
            key="method.alpha_schedule.slope",
            value=0.0,
            fix="method.variant: null, or a slope such as 0.1",
        )
