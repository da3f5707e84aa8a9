"""Checks of the keys of preference training. A key that the chosen method and loss do not read is refused."""

from __future__ import annotations

from typing import Any

from medray.config import Config
from medray.config.method import MethodConfig
from medray.config.method_specs.dpo import REFERENCE_FREE
from medray.errors import InputError

# Keys that all losses read, and those of each loss.
_COMMON = ("name", "loss", "beta", "nll_weight")
_READ: dict[str, tuple[str, ...]] = {
    "sigmoid": ("label_smoothing", "reference"),
    "dpop": ("label_smoothing", "reference", "dpop_lambda", "penalty"),
    "ipo": ("reference",),
    "hinge": ("reference",),
    "simpo": ("label_smoothing", "gamma"),
    "orpo": (),
}
_OWN = {*_COMMON, *(name for names in _READ.values() for name in names)} - {"name"}


def check_dpo(config: Config) -> None:
    """Raise InputError for the first key of preference training that contradicts another or has no effect."""
    method = config.method
    if method.name == "dpo":
        _check_read(method)
        _check_training(config)
    else:
        for name in sorted(_OWN & _changed(method)):
            raise InputError(
                f"has no effect with method.name: {method.name}",
                key=f"method.{name}",
                value=_value(method, name),
                fix=f"use method.name: dpo, or remove method.{name}",
            )


def _check_read(method: MethodConfig) -> None:
    for name in sorted(_changed(method) - {*_COMMON, *_READ[method.loss]}):
        users = [loss for loss, names in _READ.items() if name in names]
        raise InputError(
            f"has no effect with method.loss: {method.loss}"
            if users
            else "has no effect with method.name: dpo",
            key=f"method.{name}",
            value=_value(method, name),
            fix=f"use method.loss: {users[0]}, or remove method.{name}" if users else f"remove method.{name}",
        )


def _check_training(config: Config) -> None:
    method, train = config.method, config.train
    if train.label_smoothing:
        raise InputError(
            "smooths the targets of tokens, but a pair's loss compares log-probabilities of whole answers",
            key="train.label_smoothing",
            value=train.label_smoothing,
            fix="set train.label_smoothing: 0, or method.label_smoothing, which is the share of pairs in the wrong order",
        )
    if method.reference != "live" or method.loss in REFERENCE_FREE:
        return
    if config.peft.type == "none":
        raise InputError(
            "takes the reference from the model without its adapter, but this run trains all weights",
            key="method.reference",
            value="live",
            fix="set method.reference: stored, or peft.type: lora",
        )
    if config.model.adapter is not None:
        raise InputError(
            "takes the reference from the model without its adapter, but training begins with the adapter model.adapter",
            key="method.reference",
            value="live",
            fix="set method.reference: stored, which includes that adapter, or merge it first with medray export",
        )


def _changed(method: MethodConfig) -> set[str]:
    """Return the keys with a value that is not the default. A resolved config of a run names all keys."""
    fields = MethodConfig.model_fields
    return {
        name
        for name in fields
        if getattr(method, name) != fields[name].get_default(call_default_factory=True)
    }


def _value(method: MethodConfig, name: str) -> Any:
    value = getattr(method, name)
    return value if isinstance(value, str | int | float) else "…"
