from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from medray.config.method_specs import SPECS
from medray.config.section import Section, key

# Keys of the published hierarchical rationales.
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
    """The training on rationales that have several texts."""

    keys: tuple[str, ...] = key(
        RATIONALE_KEYS,
        "hierarchical only. Keys of a rationale {key: text}, in this order. Each key is a task.",
    )
    max_keys: int | None = key(
        None, "hierarchical only. Train only this many of the keys, from the first; default: all.", ge=1
    )
    reduction: Literal["mean", "sum"] = key(
        "mean",
        "hierarchical only. The rationale term of the loss: mean or sum of the means of the keys.",
    )
    skip_null: bool = key(
        True, "hierarchical only. true: keys without a value are not trained. false: their target is `None`."
    )
    several: Literal["join", "one"] = key(
        "join",
        "For a rationale that is a list. join: one text, with one line per entry. one: one entry, drawn by run.seed and id.",
    )

    @field_validator("keys")
    @classmethod
    def _plain_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse keys that cannot be names of tasks, columns and metrics."""
        if not keys:
            raise ValueError(
                "the list is empty", "use method.rationale.keys: [Age, Sex], or method.variant: null"
            )
        for name in keys:
            plain = name.strip() == name and all(sign.isalnum() or sign in " _-" for sign in name)
            if not (plain and 0 < len(name) <= _LONGEST_KEY):
                raise ValueError(
                    f"a key is 1 to {_LONGEST_KEY} letters, digits, blanks, '_' or '-'",
                    "rename the key here and in the data",
                )
        if len(set(keys)) < len(keys):
            raise ValueError("a key is named twice", "name each key once")
        return keys


class AlphaScheduleConfig(Section):
    """Schedule of variant dynamic_alpha. Until from_epoch, alpha is start; then start + slope x (e - from_epoch), within
    [0, cap]. e is the number of epochs before a step."""

    start: float | None = key(None, "Alpha until from_epoch. Default: method.alpha.", ge=0, le=1)
    from_epoch: float = key(3.0, "Epoch after which alpha changes.", ge=0)
    slope: float = key(0.1, "Change of alpha per epoch; negative values lower it.")
    cap: float = key(0.9, "Upper limit of alpha while it changes.", ge=0, le=1)


if TYPE_CHECKING:
    _Names = str
else:
    _Names = Literal[tuple(SPECS)]  # the names in the JSON schema and in messages


def _registered(name: object, check: ValidatorFunctionWrapHandler) -> object:
    """Accept every name of the registry, so that a method needs no entry here."""
    return name if isinstance(name, str) and name in SPECS else check(name)


class MethodConfig(Section):
    """The training method, which defines the loss."""

    name: Annotated[_Names, WrapValidator(_registered)] = key(
        "sft",
        "sft: train on the label only. distill: train on label and rationale, see method.mode. dpo: train on pairs of a "
        "chosen and a rejected answer to the same prompt, see method.loss.",
    )
    mode: Literal["standard", "task_prefix"] = key(
        "task_prefix",
        "distill only. task_prefix: label and rationale as two tasks with different prompts. standard: the label only.",
    )
    variant: Literal["hierarchical", "cosine", "dynamic_alpha", "two_step"] | None = key(
        None,
        "distill only. hierarchical: one task per key of the rationale. cosine: cosine alignment of the encodings of the "
        "two inputs. dynamic_alpha: alpha follows a schedule. two_step: the label's input contains the rationale's key "
        "words.",
    )
    alpha: float = key(0.5, "Weight of the label task; the rationale task has 1 - alpha.", ge=0, le=1)
    label_weight: float = key(1.0, "Factor of the label loss.", gt=0)
    loss_norm: Literal["token", "micro_batch"] = key(
        "token",
        "token: exact mean over the tokens of the whole batch. micro_batch: mean of the micro-batches' means, as in "
        "published systems; the loss then depends on how a batch is split.",
    )
    rationale: RationaleConfig = Field(default_factory=RationaleConfig)
    alpha_schedule: AlphaScheduleConfig = Field(default_factory=AlphaScheduleConfig)
    key_source: Literal["gold", "generated"] = key(
        "gold",
        "two_step only. Key words in the label's input. gold: the rationale. generated: those of a first model, in the column "
        "key_words, which medray data annotate writes.",
    )
    train_on: Literal["completion", "all"] = key(
        "completion", "Tokens with loss. completion: the answers only. all: the prompt too (causal models)."
    )
    label_source: Literal["gt", "llm"] = key(
        "gt",
        "Training labels. gt: the gold labels. llm: those that the teacher wrote. Validation always uses gold labels.",
    )
    teacher: Literal["palm", "gpt", "generic"] | None = key(
        None,
        "The teacher whose completions of a named corpus are used as rationale and label; default: the corpus's own.",
    )
    loss: Literal["sigmoid", "dpop", "ipo", "hinge", "simpo", "orpo"] = key(
        "sigmoid",
        "dpo only. Loss of a pair. sigmoid: DPO. dpop: DPO with a penalty if the chosen answer becomes less likely than under the "
        "reference. ipo: squared distance of the margin per token from 1 / (2 beta). hinge: zero beyond a margin of 1 / beta. "
        "simpo, orpo: without a reference, from log-probabilities per token.",
    )
    beta: float = key(
        0.1,
        "dpo only. Strength of the preference; a smaller value lets the model move further from the reference. ipo: 1 / "
        "(2 beta) is the wanted margin. simpo: usual values are 2 to 2.5. orpo: weight of the pair's term.",
        gt=0,
    )
    dpop_lambda: float = key(
        2.0,
        "dpop only. Weight of the penalty. The paper's 50 is for log-probabilities per token; with sums, as here, it diverges.",
        ge=0,
    )
    penalty: Literal["inside", "outside"] = key(
        "inside",
        "dpop only. inside: the penalty is part of the margin, as published. outside: it is added to the loss of DPO.",
    )
    gamma: float = key(0.5, "simpo only. Margin that the chosen answer should have.", ge=0)
    nll_weight: float | None = key(
        None,
        "dpo only. Weight of the chosen answers' mean cross-entropy per token, which is added to the loss of the pairs. "
        "Default: 1 for orpo, otherwise 0.",
        ge=0,
    )
    label_smoothing: float = key(
        0.0,
        "sigmoid, dpop and simpo only. Assumed share of pairs whose answers are in the wrong order.",
        ge=0,
        lt=0.5,
    )
    reference: Literal["stored", "live"] = key(
        "stored",
        "dpo only. Source of the reference's log-probabilities, those of the weights that training begins with. stored: one "
        "pass before the first step, kept next to the token shards. live: in each step, by the model without its adapter.",
    )
