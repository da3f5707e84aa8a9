"""The torch-free half of a made-up method: it compares the two answers of a preference pair."""

from __future__ import annotations

from medray.config.method import MethodConfig
from medray.config.method_specs import MethodSpec, NeededColumn, TaskGroup, TaskSpec

NAME = "margin"


def margin_spec(method: MethodConfig) -> MethodSpec:
    """Both answers follow the same prompt, are never cut, and go through in one forward."""
    tasks = tuple(
        TaskSpec(
            name=name,
            prompt="label",
            limit_key="data.max_label_tokens",
            long_answers="drop",
            required=True,
        )
        for name in ("label", "rejected")
    )
    return MethodSpec(
        name=NAME,
        tasks=tasks,
        groups=(TaskGroup(("label", "rejected")),),
        terms=("pair",),
        metrics=("accuracy",),
        columns=(
            NeededColumn(
                name="rejected",
                why="method.name: margin compares",
                without="method.name: sft",
                every_row=True,
            ),
        ),
        identity="input",
    )
