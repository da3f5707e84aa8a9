from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from medray.config.method_specs import SPECS
from medray.config.section import Section, key

# Of the published hierarchical rationales.
RATIONALE_KEYS = (
    "Age",
    "Sex",
    "Smoking",
    "Alcohol",
    "Medications or Drugs",
    "Diagnosis",
    "Past Medical History",
    "Past Surgical History",
    "Family History",
    "Known Allergies",
    "Lab Results",
    "Immunizations",
    "Other",
)
_LONGEST_KEY = 60


class RationaleConfig(Section):
    """What of a rationale is trained on, where it is more than one text."""

    keys: tuple[str, ...] = key(
        RATIONALE_KEYS, "hierarchical only. Keys of a rationale {key: text}, a task each, in this order."
    )
    max_keys: int | None = key(None, "hierarchical only. The first so many of keys; default: all.", ge=1)
    reduction: Literal["mean", "sum"] = key(
        "mean", "hierarchical only. The rationale term: mean or sum over the keys' own means."
    )
    skip_null: bool = key(
        True, "hierarchical only. Keys without a value are not trained; false: their target is `None`."
    )
    several: Literal["join", "one"] = key(
        "join",
        "Of a rationale that is a list. join: one text of all, a line each. one: one of them, drawn by run.seed and id.",
    )

    @field_validator("keys")
    @classmethod
    def _plain_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        """They are names of tasks, of columns and of metrics."""
        if not keys:
            raise ValueError("names no key", "method.rationale.keys: [Age, Sex], or method.variant: null")
        for name in keys:
            plain = name.strip() == name and all(sign.isalnum() or sign in " _-" for sign in name)
            if not (plain and 0 < len(name) <= _LONGEST_KEY):
                raise ValueError(
                    f"a key is 1 to {_LONGEST_KEY} letters, digits, blanks, '_' or '-'",
                    "name it so in the data too",
                )
        if len(set(keys)) < len(keys):
            raise ValueError("a key is named twice", "name each key once")
        return keys


class AlphaScheduleConfig(Section):
    """dynamic_alpha only. alpha(e) = start + slope x (e - from_epoch), within [0, cap]; e: epochs before a step."""

    start: float | None = key(None, "Alpha until from_epoch; default: method.alpha.", ge=0, le=1)
    from_epoch: float = key(3.0, "Epochs after which alpha moves.", ge=0)
    slope: float = key(0.1, "Change of alpha an epoch; below 0 it falls.")
    cap: float = key(0.9, "Largest alpha that the slope leads to.", ge=0, le=1)


if TYPE_CHECKING:
    _Names = str
else:
    _Names = Literal[tuple(SPECS)]  # the names that schemas and messages list


def _registered(name: object, check: ValidatorFunctionWrapHandler) -> object:
    """Accept every name of the registry, so that a method needs no entry here."""
    return name if isinstance(name, str) and name in SPECS else check(name)


class MethodConfig(Section):
    """What the loss is."""

    name: Annotated[_Names, WrapValidator(_registered)] = key(
        "sft", "sft: the label alone. distill: label and rationale, or standard."
    )
    mode: Literal["standard", "task_prefix"] = key(
        "task_prefix",
        "distill only. task_prefix: two tasks, told apart by their prompts. standard: the label alone.",
    )
    variant: Literal["hierarchical", "cosine", "dynamic_alpha", "two_step"] | None = key(
        None,
        "distill only. hierarchical: a task a key of the rationale. cosine: what the encoder makes of both inputs is "
        "drawn together. dynamic_alpha: alpha moves. two_step: the label's input has the rationale's key words in it.",
    )
    alpha: float = key(0.5, "Weight of the label task; the rationale task has 1 - alpha.", ge=0, le=1)
    label_weight: float = key(1.0, "Multiplies the label loss.", gt=0)
    loss_norm: Literal["token", "micro_batch"] = key(
        "token",
        "token: exact mean over the tokens of the whole batch. micro_batch: mean of the micro-batches' means, as "
        "published systems had it: then the loss depends on how a batch is split.",
    )
    rationale: RationaleConfig = Field(default_factory=RationaleConfig)
    alpha_schedule: AlphaScheduleConfig = Field(default_factory=AlphaScheduleConfig)
    key_source: Literal["gold", "generated"] = key(
        "gold", "two_step only. Key words: gold: the rationale. generated: not offered yet."
    )
    train_on: Literal["completion", "all"] = key(
        "completion", "Tokens with loss: the answers alone, or the prompt too (causal models)."
    )
    label_source: Literal["gt", "llm"] = key(
        "gt", "Training labels: gold, or what the teacher wrote. Validation keeps gold."
    )
    teacher: Literal["palm", "gpt", "generic"] | None = key(
        None, "Whose completions a named corpus brings as rationale and label; default: the corpus's own."
    )
