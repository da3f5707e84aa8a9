"""The spec of supervised fine-tuning: the label alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medray.config.method_specs.spec import LABEL, MethodSpec, TaskGroup

if TYPE_CHECKING:
    from medray.config.method import MethodConfig


def sft_spec(method: MethodConfig) -> MethodSpec:
    """Return the spec of `method.name: sft`. No key of the method changes it."""
    return MethodSpec(
        name="sft",
        tasks=(LABEL,),
        groups=(TaskGroup((LABEL.name,)),),
        terms=(LABEL.name,),
        described=(("method", "sft"),),
    )
