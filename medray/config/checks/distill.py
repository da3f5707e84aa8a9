"""Checks of the keys of distillation. Keys that the chosen method and variant do not use are refused."""

from __future__ import annotations

from typing import Any

from medray.config.method import AlphaScheduleConfig, MethodConfig, RationaleConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import moves_alpha, start_alpha, trains_rationales
from medray.errors import InputError


def check_distill(method: MethodConfig) -> None:
    """Raise InputError for the first key of distillation that contradicts another or has no effect."""
    _check_variant(method)
    _check_owners(method)
    _check_alpha(method)


def _check_variant(method: MethodConfig) -> None:
    variant = method.variant
    if variant is None:
        return
    if method.name != "distill":
        raise InputError(
            f"this is a variant of distillation, but method.name is {method.name}",
            key="method.variant",
            value=variant,
            fix="use method.name: distill, or method.variant: null",
        )
    if variant != "two_step" and not trains_rationales(method):
        raise InputError(
            "this variant needs the rationale task, but method.mode: standard trains only the label",
            key="method.variant",
            value=variant,
            fix="use method.mode: task_prefix, or method.variant: null",
        )
    if variant in ("hierarchical", "cosine") and method.loss_norm == "micro_batch":
        raise InputError(
            f"this value exists to reproduce published runs, and none of them used method.variant: {variant}",
            key="method.loss_norm",
            value="micro_batch",
            fix="use method.loss_norm: token",
        )


def _check_owners(method: MethodConfig) -> None:
    """Raise InputError for a key that only another variant reads."""
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
                f"this key has no effect without method.variant: {variant}",
                key=f"method.{name}",
                value=list(value) if isinstance(value, tuple) else value,
                fix=f"use method.variant: {variant}, or remove method.{name}",
            )
    if method.rationale.several != "join" and not spec_of(method).draw_one:
        raise InputError(
            "this key has no effect, because the method uses no rationales",
            key="method.rationale.several",
            value=method.rationale.several,
            fix="use method.name: distill with mode: task_prefix, or remove method.rationale.several",
        )
    if method.rationale.several != "join" and method.variant == "hierarchical":
        raise InputError(
            "this value says how to use a list of rationales, but method.variant: hierarchical reads one text per key",
            key="method.rationale.several",
            value=method.rationale.several,
            fix="use method.rationale.several: join",
        )


def _check_alpha(method: MethodConfig) -> None:
    schedule = method.alpha_schedule
    if method.variant in ("hierarchical", "cosine") and (
        method.alpha == 1 or (method.variant == "cosine" and method.alpha == 0)
    ):
        raise InputError(
            f"this value gives weight 0 to a task that method.variant: {method.variant} needs",
            key="method.alpha",
            value=method.alpha,
            fix="use a value such as method.alpha: 0.5",
        )
    if not moves_alpha(method):
        return
    if schedule.start is not None and method.alpha != MethodConfig.model_fields["alpha"].default:
        raise InputError(
            f"the first value of alpha is set twice: here and by method.alpha: {method.alpha:g}",
            key="method.alpha_schedule.start",
            value=schedule.start,
            fix="remove method.alpha_schedule.start or method.alpha",
        )
    if start_alpha(method) > schedule.cap:
        raise InputError(
            f"the cap is below the first value of alpha, {start_alpha(method):g}",
            key="method.alpha_schedule.cap",
            value=schedule.cap,
            fix=f"use method.alpha_schedule.cap: {start_alpha(method):g}, or a lower start",
        )
    if schedule.slope == 0:
        raise InputError(
            "with a slope of 0, alpha would never change",
            key="method.alpha_schedule.slope",
            value=0.0,
            fix="use a slope such as 0.1, or method.variant: null",
        )
