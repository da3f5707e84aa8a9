from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from medray.config.section import Section, key


class ColumnsConfig(Section):
    """Which column of a source holds what. A default that a file lacks is absent; a name given here must be there."""

    input: str = key("input", "The text that the model reads.")
    label: str = key("label", "The text that it shall write.")
    rationale: str | None = key("rationale", "Why: the key facts or a chain of thought.")
    id: str | None = key("id", "A unique id of the record; without it file name and row number.")
    group: str | None = key("group", "The document or patient that a record belongs to.")
    entities: str | None = key("entities", "List of {text, assertion} in the label: the truth of entity_f1.")


class PromptsConfig(Section):
    """What stands before the input, a task each. Training, evaluation and inference use the same."""

    label: str = key("Summarize this dialogue", "Instruction or prefix of the label task.")
    rationale: str = key("Extract the key information from this dialogue", "The same of the rationale task.")
    system: str | None = key(
        None, "System message of the chat template; none leaves the template's own default."
    )


class ClinicConfig(Section):
    """The simulated clinic: consultations written by a seeded generator."""

    size: Literal["small", "medium", "full"] = key("small", "Length of a consultation.")
    seed: int = key(0, "Row i is a function of (seed, i).", ge=0)
    train_rows: int = key(1000, "Rows of the training split.", ge=1)
    validation_rows: int = key(100, "Rows of the validation split.", ge=0)


class DataConfig(Section):
    """Which records a run sees and how they become tokens."""

    dataset: Literal["clinic"] | None = key(None, "A corpus by name, in place of `train` and `validation`.")
    clinic: ClinicConfig = Field(default_factory=ClinicConfig)
    root: str | None = key(
        None, "Folder that `train` and `validation` are relative to; default: the config's."
    )
    train: tuple[str, ...] = key((), "Files of the training split: .json, .jsonl, .csv, .tsv; one or a list.")
    validation: tuple[str, ...] = key((), "Files of the validation split, as `train`.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    tokenizer: Literal["model", "train"] = key(
        "model", "The model's, or a byte-level BPE trained on the train split."
    )
    vocab_size: int = key(4096, "Size of a trained tokenizer.", ge=300)
    max_input_tokens: int = key(1024, "Longest input; its end is cut and counted, never the prompt.", ge=1)
    max_label_tokens: int = key(512, "Longest label.", ge=1)
    max_rationale_tokens: int = key(512, "Longest rationale.", ge=1)
    max_rejects: float = key(0.01, "Share of bad rows that a run tolerates.", ge=0, le=1, resumable=True)
    shard_rows: int = key(2048, "Rows of a token shard.", ge=1)
    window_shards: int = key(
        8, "Shards that are shuffled together; training starts when the first are there.", ge=1
    )

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """One file, a list of files, or null for none."""
        return () if value is None else (value,) if isinstance(value, str) else value
