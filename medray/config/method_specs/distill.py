"""The spec of distillation: label and rationale as two tasks, with their published variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medray.config.method_specs.spec import LABEL, MethodSpec, NeededColumn, Setting, TaskGroup, TaskSpec

if TYPE_CHECKING:
    from medray.config.method import MethodConfig

RATIONALE = TaskSpec(name="rationale", prompt="rationale", limit_key="data.max_rationale_tokens")
KEY_WORDS = NeededColumn(
    name="key_words",
    why="method.key_source: generated needs",
    without="method.key_source: gold",
    every_row=True,
    command="medray data annotate",
)
COSINE = "cosine"  # the term that compares the encodings of the two inputs
_TOLD = "two_step: validation rows contain their own key words, so the metrics are those of a model that is told them"


def trains_rationales(method: MethodConfig) -> bool:
    """Return whether rationales are trained too, weighted against labels by alpha."""
    return method.name == "distill" and method.mode == "task_prefix"


def moves_alpha(method: MethodConfig) -> bool:
    return trains_rationales(method) and method.variant == "dynamic_alpha"


def start_alpha(method: MethodConfig) -> float:
    """Return alpha before the first step."""
    start = method.alpha_schedule.start
    return start if moves_alpha(method) and start is not None else method.alpha


def distill_spec(method: MethodConfig) -> MethodSpec:
    """Return the spec of `method.name: distill`, in both modes and all variants."""
    tasks, two_step, rationale = _tasks(method), method.variant == "two_step", method.rationale
    names = tuple(task.name for task in tasks)
    keyed = tuple(task.name for task in tasks if task.key)
    compares = trains_rationales(method) and method.variant == "cosine"
    generated = two_step and method.key_source == "generated"
    reads = (two_step and not generated) or any(task.answer == "rationale" for task in tasks)
    return MethodSpec(
        name="distill",
        tasks=tasks,
        groups=_groups(names, keyed, together=compares),
        terms=(*names, COSINE) if compares else names,
        columns=(
            *((_rationale_column(two_step=two_step and not generated),) if reads else ()),
            *((KEY_WORDS,) if generated else ()),
        ),
        also_encoded=() if LABEL in tasks else (LABEL,),
        encodings=Setting("method.variant", "cosine", "method.variant: null") if compares else None,
        keys=Setting("method.rationale.keys", keyed, "method.variant: null") if keyed else None,
        moving_weights=moves_alpha(method),
        skip_null=rationale.skip_null if keyed else True,
        draw_one=rationale.several == "one" and reads,
        label_reads=("key_words" if generated else "rationale") if two_step else None,
        described=_described(method),
        notes=(_TOLD,) if two_step and not generated else (),
    )


def _tasks(method: MethodConfig) -> tuple[TaskSpec, ...]:
    """Return the trained tasks, without a task whose weight is always zero."""
    if not trains_rationales(method):
        return (LABEL,)
    rationale: tuple[TaskSpec, ...] = (RATIONALE,)
    if method.variant == "hierarchical":
        rationale = tuple(
            TaskSpec(name=f"rationale/{key}", prompt=RATIONALE.prompt, limit_key=RATIONALE.limit_key)
            for key in method.rationale.keys[: method.rationale.max_keys]
        )
    moves = moves_alpha(method)
    label = (LABEL,) if method.alpha > 0 or moves else ()
    return (*label, *(rationale if method.alpha < 1 or moves else ()))


def _groups(names: tuple[str, ...], keyed: tuple[str, ...], *, together: bool) -> tuple[TaskGroup, ...]:
    """Return one group per task, but mix keys, as few rows have many of them. The cosine term needs both tasks of a row."""
    if together:
        return (TaskGroup(names),)
    alone = tuple(TaskGroup((name,)) for name in names if name not in keyed)
    return (*alone, TaskGroup(keyed, by="text")) if keyed else alone


def _rationale_column(*, two_step: bool) -> NeededColumn:
    return NeededColumn(
        name="rationale",
        why="method.variant: two_step needs" if two_step else "method.mode: task_prefix needs",
        without="method.mode: standard" + " and method.variant: null" * two_step,
    )


def _described(method: MethodConfig) -> tuple[tuple[str, object], ...]:
    """Return rows of a model card. They name the mode, because in mode standard the model has seen no rationale."""
    rows: list[tuple[str, object]] = [("method", f"distill, {method.mode}")]
    if method.variant:
        rows.append(("variant", method.variant))
    if method.key_source == "generated":
        rows.append(("key words", "written by a model"))
    if trains_rationales(method) and not moves_alpha(method):
        rows.append(("weight of the label (alpha)", method.alpha))
    if method.label_source == "llm":
        rows.append(("labels", "written by the teacher"))
    return tuple(rows)
