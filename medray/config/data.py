from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medray.config.section import Section, key

# Published corpora by name; data.root is the folder of their files.
Dataset = Literal[
    "clinic",
    "cqa",
    "svamp",
    "asdiv",
    "esnli",
    "anli1",
    "generic",
    "medqa_d2n",
    "medqa_n2d",
    "medsum",
    "full_note",
    "multiclinsum",
    "wikidoc",
    "medquad",
    "bc5cdr_chemical",
    "bc5cdr_disease",
    "bc5cdr",
    "nlm_gene",
    "ncbi_disease",
    "chemdner",
    "ddi_corpus",
    "biorelex",
]

Format = Literal[
    "auto",
    "json",
    "jsonl",
    "csv",
    "tsv",
    "tsv_quoted",
    "parquet",
    "pubtator",
    "conll",
    "medquad_xml",
    "bioc",
    "huggingface",
]
TEMPLATES = (
    *("chat", "chatml", "alpaca", "plain"),
    *("legacy/gemma", "legacy/llama", "legacy/llama3", "legacy/mistral"),
)
TEMPLATE_FILES = (".jinja", ".j2")
Form = Literal[
    "auto",
    "columns",
    "messages",
    "sharegpt",
    "alpaca",
    "meditron",
    "taiyi",
    "two_step",
    "bigbio",
    "preference",
]


class ColumnsConfig(Section):
    """Which column of a source holds what. A default that a file lacks is absent; another name must be there."""

    input: str = key("input", "The text that the model reads.")
    label: str = key("label", "The text that it shall write.")
    rationale: str | None = key(
        "rationale", "Why: the key facts or a chain of thought; text, a list, or {key: text}."
    )
    id: str | None = key("id", "A unique id of the record; without it file name and row number, from 1.")
    group: str | None = key("group", "The document or patient that a record belongs to.")
    lang: str | None = key("lang", "Language of the record.")
    entities: str | None = key("entities", "List of {text, assertion} in the label: the truth of entity_f1.")

    @model_validator(mode="after")
    def _a_default_is_not_given(self) -> ColumnsConfig:
        """So that the resolved config of a run, which has every name, means what the written one meant."""
        for name, field in type(self).model_fields.items():
            if getattr(self, name) == field.default:
                self.model_fields_set.discard(name)
        return self


class SourceConfig(Section):
    """One entry of `train` or `validation`. A plain text in its place is its path."""

    path: str = key(
        ...,
        "File, folder, glob, URL (s3://, https://, …), or the name of a Hugging Face data set.",
        resumable=True,  # the hash of the content is what a run holds on to
    )
    format: Format = key(
        "auto",
        "How bytes become rows; auto: by the file's ending. tsv has no quotes, tsv_quoted has those of CSV.",
    )
    form: Form = key("auto", "How a row becomes a record; auto: by its columns.")
    columns: ColumnsConfig | None = key(None, "As data.columns, for this source alone.")
    split: str = key("train", "Split of a Hugging Face data set.")
    subset: str | None = key(None, "Configuration of a Hugging Face data set.")
    weight: float | None = key(
        None, "Share of this corpus in every batch, relative to the others'; all or none.", gt=0
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        if not isinstance(value, str | dict | SourceConfig):
            raise ValueError("expected a path, or keys with a path among them")
        return {"path": value} if isinstance(value, str) else value


class PromptsConfig(Section):
    """What stands before the input, a task each. Training, evaluation and inference use the same."""

    label: str | None = key(
        None,
        "Instruction or prefix of the label task. Without it: that of the published corpus; of your own columns the input "
        "alone is the prompt; documents with entities are asked for data.extraction.",
    )
    rationale: str | None = key(
        None,
        "The same of the rationale task. Without it: that of the published corpus; of your own columns `Explain`, as "
        "something must tell the two tasks apart.",
    )
    system: str | None = key(
        None, "System message of the chat template; none leaves the template's own default."
    )


class ClinicConfig(Section):
    """The simulated clinic: consultations written by a seeded generator."""

    size: Literal["small", "medium", "full"] = key("small", "Length of a consultation.")
    seed: int = key(0, "Row i is a function of (seed, i).", ge=0)
    train_rows: int = key(1000, "Rows of the training split.", ge=1)
    validation_rows: int = key(100, "Rows of the validation split.", ge=0)


class SplitConfig(Section):
    """Validation rows taken from the training sources, where `validation` names none."""

    validation: float = key(
        0.0, "Share of the training rows, or of their groups, that is validated on.", ge=0, lt=1
    )
    by: Literal["group", "row"] = key(
        "group", "group: by a hash of the document id, so none is in both. row: a seeded permutation."
    )
    seed: int = key(0, "Seed of the split, apart from run.seed.", ge=0)


class ExtractionConfig(Section):
    """What a record with entities and relations is asked for."""

    answer: Literal["entities", "relations"] = key(
        "entities", "entities: a JSON list of strings. relations: of [first, second]."
    )
    types: tuple[str, ...] = key((), "Types of entities or relations that are asked for; empty: all.")


class DataConfig(Section):
    """Which records a run sees and how they become tokens."""

    dataset: Dataset | None = key(
        None, "A corpus by name, in place of `train` and `validation`; its files lie in `root`."
    )
    clinic: ClinicConfig = Field(default_factory=ClinicConfig)
    root: str | None = key(
        None,
        "Folder or URL that `train` and `validation` are relative to; default: the config's.",
        resumable=True,
    )
    train: tuple[SourceConfig, ...] = key((), "Sources of the training split: one or a list.")
    validation: tuple[SourceConfig, ...] = key((), "Sources of the validation split, as `train`.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    subsample: float = key(1.0, "Share of the training rows that is kept, drawn with run.seed.", gt=0, le=1)
    leakage: Literal["error", "drop", "allow"] = key(
        "error", "An input or group of validation that is in training too: stop, drop it there, or allow it."
    )
    duplicates: Literal["keep", "drop"] = key(
        "keep", "Rows that repeat input and target of an earlier one: keep and count them, or drop them."
    )
    decontaminate: tuple[str, ...] = key(
        (), "Benchmark files; training rows that share 13 words in a row with them are dropped."
    )
    pair_join: Literal["newline", "eos"] | None = key(
        None, "What joins premise and hypothesis; default: eos where the corpus was published so."
    )
    template: str = key(
        "chat", "chat, chatml, alpaca, plain, legacy/{gemma,llama,llama3,mistral}, or a Jinja file."
    )
    train_turns: Literal["all", "last"] = key("all", "Turns of the assistant that carry loss.")
    tokenizer: Literal["model", "train"] = key(
        "model",
        "The model's, or a byte-level BPE trained on the train split: its vocabulary then holds words of the records.",
    )
    vocab_size: int = key(4096, "Size of a trained tokenizer.", ge=300)
    max_input_tokens: int = key(1024, "Longest input; its end is cut and counted, never the prompt.", ge=1)
    max_label_tokens: int = key(512, "Longest label.", ge=1)
    max_rationale_tokens: int = key(512, "Longest rationale.", ge=1)
    max_rejects: float = key(0.01, "Share of bad rows that a run tolerates.", ge=0, le=1, resumable=True)
    shard_rows: int = key(1024, "Rows of a token shard.", ge=1)
    window_shards: int = key(
        4, "Shards that are shuffled together; training starts when the first are there.", ge=1
    )
    pack_tokens: int | None = key(
        None,
        "Packs whole rows into sequences of at most so many tokens, boundaries kept; a row of a batch is "
        "then such a sequence. Causal models only.",
        ge=8,
    )
    length_buckets: bool | None = key(
        None, "Rows of alike length in one batch; default: for encoder-decoders."
    )

    @field_validator(
        "train",
        "validation",
        mode="before",
        json_schema_input_type=str | SourceConfig | list[str | SourceConfig] | None,
    )
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """One source, a list of sources, or null for none."""
        return () if value is None else (value,) if isinstance(value, str | dict) else value

    @field_validator("decontaminate", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_file_or_many(cls, value: object) -> object:
        return () if value is None else (value,) if isinstance(value, str) else value
