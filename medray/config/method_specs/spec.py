"""The torch-free half of a method: which answers it trains, and what data, batches and metrics must know about them.

A method has two halves under one name. This half is a value that a function makes of `MethodConfig`; the registry in
`medray.config.method_specs` maps the name to the function. The other half is a loss class in `medray.methods`. Data,
step, evaluation and inspection ask the spec or the loss. None of them asks which method or variant it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medray.config.data import DataConfig


def split_task(name: str) -> tuple[str, str]:
    """Return (answer, key) of a task's name: `rationale/Age` is ("rationale", "Age"), `label` is ("label", "")."""
    answer, _, key = name.partition("/")
    return answer, key


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One answer that the model learns to write for a row.

    name: `<answer>` or `<answer>/<key>`. The answer is the field of a record that is written (label, rationale,
    rejected); the key is one entry of a rationale that is a mapping. Columns of token shards and metrics use the name.
    prompt: the key of `data.prompts` with the text before the input. limit_key: dotted key of the longest answer, in
    tokens. long_answers: `cut` shortens an answer over the limit; `drop` leaves the row without this task. required:
    a row without text for this task stays, and is counted among the cut rows of the task; for other tasks a missing
    text is not counted.
    """

    name: str
    prompt: str
    limit_key: str
    long_answers: Literal["cut", "drop"] = "cut"
    required: bool = False

    @property
    def answer(self) -> str:
        return split_task(self.name)[0]

    @property
    def key(self) -> str:
        return split_task(self.name)[1]

    def limit(self, data: DataConfig) -> int:
        """Return the longest answer, in tokens."""
        return int(getattr(data, self.limit_key.removeprefix("data.")))


LABEL = TaskSpec(name="label", prompt="label", limit_key="data.max_label_tokens", required=True)


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share a forward where rows are not packed.

    by: `row` puts all tasks of a micro-batch's rows into one forward, in the same order of rows for each task; a group
    of one task is the plain case. `text` mixes the texts of all tasks and arranges them by length, whichever row
    they belong to: this suits tasks that few rows have. Packed sequences hold all tasks of their rows in any case.
    """

    tasks: tuple[str, ...]
    by: Literal["row", "text"] = "row"


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededColumn:
    """A field of a record that the method cannot do without.

    name: the field (rationale, rejected), and its key in `data.columns` if there is one. why: the setting that needs
    it, with a verb, for a message. without: the setting that does not need it. every_row: a row without it is bad;
    otherwise one row of a split must have it. command: the one that writes rows with it.
    """

    name: str
    why: str
    without: str
    every_row: bool = False
    command: str = "medray data pairs"


@dataclass(frozen=True)
class Setting:
    """A key and value of the config with special needs. without: the setting that does not have them."""

    key: str
    value: object
    without: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The numbers of each row that a frozen model gives: the one that training begins with.

    values: their names. live: computed again in each forward, by the model without its adapter; otherwise computed
    once, before the first step, and stored next to the token shards.
    """

    values: tuple[str, ...]
    live: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """All facts about a method except its loss.

    tasks: the trained tasks, in the order of their forwards; rows are ordered by the length of the first. groups: how
    the tasks share forwards. terms: the parts of the loss, logged as `loss/<term>`. metrics: other means that the
    loss class computes, logged under their own names. columns: the fields that rows need. also_encoded: tasks that token shards
    contain although they are not trained; evaluation generates the label. identity: what makes two rows the same for
    duplicates and benchmarks; `input` is for methods in which one input has several answers. reference: what the method
    needs to know of a frozen model; None if it needs none.

    encodings: the setting that compares encodings of an encoder; None in a method that reads logits alone. Such a
    method needs an encoder-decoder, a forward with all logits, and no virtual tokens. keys: the setting that names the
    keys of keyed tasks. moving_weights: weights of the terms change during a run, so losses of two evaluations cannot
    be compared. skip_null: a key without a value is not trained. draw_one: one of a list of rationales is drawn.
    label_reads: the column whose text the input of the label contains, too; None for the input alone. described: rows of a model card. notes:
    sentences on settings that are allowed but may surprise.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    groups: tuple[TaskGroup, ...]
    terms: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    columns: tuple[NeededColumn, ...] = ()
    also_encoded: tuple[TaskSpec, ...] = ()
    identity: Literal["input_and_answer", "input"] = "input_and_answer"
    reference: Reference | None = None
    encodings: Setting | None = None
    keys: Setting | None = None
    moving_weights: bool = False
    skip_null: bool = True
    draw_one: bool = False
    label_reads: Literal["rationale", "key_words"] | None = None
    described: tuple[tuple[str, object], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        grouped = [name for group in self.groups for name in group.tasks]
        if sorted(grouped) != sorted(self.task_names):
            raise ValueError(f"method {self.name}: every trained task must be in one group")
        order = self.task_names.index
        if any(list(group.tasks) != sorted(group.tasks, key=order) for group in self.groups):
            raise ValueError(f"method {self.name}: a group must list its tasks in the order of the method")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the trained tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def encoded(self) -> tuple[TaskSpec, ...]:
        """The tasks that token shards hold."""
        return (*self.also_encoded, *self.tasks)

    def task(self, name: str) -> TaskSpec:
        """Return the encoded task of this name. Raises KeyError if there is none."""
        for task in self.encoded:
            if task.name == name:
                return task
        raise KeyError(name)

    @property
    def row_groups(self) -> tuple[tuple[str, ...], ...]:
        """The groups whose forwards hold whole rows, in order."""
        return tuple(group.tasks for group in self.groups if group.by == "row")

    @property
    def mixed_tasks(self) -> tuple[str, ...]:
        """The tasks whose texts are arranged independently of their rows."""
        return tuple(task for group in self.groups if group.by == "text" for task in group.tasks)

    def needs_in_every_row(self, name: str) -> bool:
        """Return whether a row without this field is bad."""
        return any(column.name == name and column.every_row for column in self.columns)
