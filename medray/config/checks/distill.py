"""Checks of the keys that distillation reads. A key that no chosen variant or method reads is refused."""

from __future__ import annotations

from typing import Any

from medray.config.method import AlphaScheduleConfig, MethodConfig, RationaleConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import moves_alpha, start_alpha, trains_rationales
from medray.errors import InputError


def check_distill(method: MethodConfig) -> None:
    """Raise InputError for the first key of distillation that contradicts another, or that nothing reads."""
    _check_variant(method)
    _check_owners(method)
    _check_alpha(method)
    if method.key_source == "generated":
        raise InputError(
            "key words are not generated in a run yet: what the model itself writes is not read back",
            key="method.key_source",
            value="generated",
            fix="method.key_source: gold, with the key words of a model in a column named by data.columns.rationale",
        )


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
    if variant != "two_step" and not trains_rationales(method):
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
    if method.rationale.several != "join" and not spec_of(method).draw_one:
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
    if not moves_alpha(method):
        return
    if schedule.start is not None and method.alpha != MethodConfig.model_fields["alpha"].default:
        raise InputError(
            "is given too, and alpha starts with one value",
            key="method.alpha_schedule.start",
            value=schedule.start,
            fix="leave out method.alpha_schedule.start, or method.alpha",
        )
    if start_alpha(method) > schedule.cap:
        raise InputError(
            f"is below what alpha starts with, {start_alpha(method):g}",
            key="method.alpha_schedule.cap",
            value=schedule.cap,
            fix=f"method.alpha_schedule.cap: {start_alpha(method):g}, or a lower start",
        )
    if schedule.slope == 0:
        raise InputError(
            "alpha would not move",
            key="method.alpha_schedule.slope",
            value=0.0,
            fix="method.variant: null, or a slope such as 0.1",
        )
