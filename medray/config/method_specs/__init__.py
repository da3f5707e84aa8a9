"""The registry of method specs. A new method adds a file here, a loss file in `medray.methods`, and its name to both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medray.config.method_specs.distill import distill_spec
from medray.config.method_specs.dpo import dpo_spec
from medray.config.method_specs.sft import sft_spec
from medray.config.method_specs.spec import (
    LABEL,
    MethodSpec,
    NeededColumn,
    Reference,
    Setting,
    TaskGroup,
    TaskSpec,
    split_task,
)

if TYPE_CHECKING:
    from medray.config.method import MethodConfig

__all__ = [
    "LABEL",
    "SPECS",
    "MethodSpec",
    "NeededColumn",
    "Reference",
    "Setting",
    "TaskGroup",
    "TaskSpec",
    "spec_of",
    "split_task",
]

SPECS: dict[str, Callable[[MethodConfig], MethodSpec]] = {
    "sft": sft_spec,
    "distill": distill_spec,
    "dpo": dpo_spec,
}


def spec_of(method: MethodConfig) -> MethodSpec:
    """Return the spec of a method's config."""
    return SPECS[method.name](method)
