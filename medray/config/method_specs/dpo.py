"""The spec of preference training: the chosen and the rejected answer to one prompt, both in one forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medray.config.method_specs.spec import LABEL, MethodSpec, NeededColumn, Reference, TaskGroup, TaskSpec

if TYPE_CHECKING:
    from medray.config.method import MethodConfig

PREFERENCE, REJECTED = "preference", "rejected"
REFERENCE_FREE = ("simpo", "orpo")
_OFF_LABEL = (
    "method.label_smoothing: with method.loss: dpop, it also rewards the penalty, as in the published formula"
)


def nll_weight(method: MethodConfig) -> float:
    """Return the weight of the chosen answers' cross-entropy."""
    if method.nll_weight is not None:
        return method.nll_weight
    return 1.0 if method.loss == "orpo" else 0.0


def dpo_spec(method: MethodConfig) -> MethodSpec:
    """Return the spec of `method.name: dpo` with any loss. An answer over its limit leaves out its pair: it is never cut."""
    tasks = tuple(
        TaskSpec(
            name=name, prompt=LABEL.prompt, limit_key=LABEL.limit_key, long_answers="drop", required=True
        )
        for name in (LABEL.name, REJECTED)
    )
    compares = method.loss not in REFERENCE_FREE
    return MethodSpec(
        name="dpo",
        tasks=tasks,
        groups=(TaskGroup((LABEL.name, REJECTED)),),
        terms=(PREFERENCE, LABEL.name) if nll_weight(method) else (PREFERENCE,),
        metrics=_metrics(method),
        columns=(
            NeededColumn(
                name=REJECTED, why="method.name: dpo compares", without="method.name: sft", every_row=True
            ),
        ),
        identity="input",
        reference=Reference(values=(LABEL.name, REJECTED), live=method.reference == "live")
        if compares
        else None,
        described=(("method", f"dpo, {method.loss}"), ("beta", method.beta)),
        notes=(_OFF_LABEL,) if method.loss == "dpop" and method.label_smoothing else (),
    )


def _metrics(method: MethodConfig) -> tuple[str, ...]:
    """Return the logged means over pairs, as `methods.pair_losses.pair_statistics` names them."""
    found = (
        "reward_chosen",
        "reward_rejected",
        "reward_margin",
        "preference_accuracy",
        "logp_chosen",
        "logp_rejected",
    )
    if method.loss in REFERENCE_FREE:
        return found
    return (*found, "chosen_over_reference", *(("penalized_pairs",) if method.loss == "dpop" else ()))
