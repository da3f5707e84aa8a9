from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from medray.config.columns import ColumnsConfig
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
DFPO_TEMPLATES = ("legacy/taiyi", "legacy/adelie")  # the published forms of the DFPO system, for Gemma 2
TEMPLATES = (
    *("chat", "chatml", "alpaca", "plain"),
    *("legacy/gemma", "legacy/llama", "legacy/llama3", "legacy/mistral"),
    *DFPO_TEMPLATES,
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


class SourceConfig(Section):
    """One entry of `train` or `validation`. A plain text is taken as its path."""

    path: str = key(
        ...,
        "File, folder, glob, URL (s3://, https://, …), or the name of a Hugging Face data set.",
        resumable=True,  # a run is bound to the hash of the content, not to the path
    )
    format: Format = key(
        "auto",
        "The format of the file; auto: by its ending. tsv has no quotes, tsv_quoted has the quotes of CSV.",
    )
    form: Form = key("auto", "The schema by which a row becomes a record; auto: by its columns.")
    columns: ColumnsConfig | None = key(None, "Like data.columns, for this source only.")
    split: str = key("train", "Split of a Hugging Face data set.")
    subset: str | None = key(None, "Configuration of a Hugging Face data set.")
    weight: float | None = key(
        None,
        "Share of this source in every batch, relative to the weights of the others; set all or none.",
        gt=0,
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        if not isinstance(value, str | dict | SourceConfig):
            raise ValueError("expected a path, or keys that include path")
        return {"path": value} if isinstance(value, str) else value


def _one_or_many(value: object) -> object:
    """Accept one source, a list of sources, or null for none."""
    return () if value is None else (value,) if isinstance(value, str | dict) else value


Sources = Annotated[
    tuple[SourceConfig, ...],
    BeforeValidator(
        _one_or_many, json_schema_input_type=str | SourceConfig | list[str | SourceConfig] | None
    ),
]


class PromptsConfig(Section):
    """The instruction before the input, one per task. Training, evaluation and inference use the same."""

    label: str | None = key(
        None,
        "Instruction or prefix of the label task. Default: that of the published corpus; for your own columns, none (the "
        "prompt is the input alone); for documents with entities, a question for data.extraction.",
    )
    rationale: str | None = key(
        None,
        "Instruction or prefix of the rationale task. Default: that of the published corpus; for your own columns, `Explain`, "
        "because the two tasks must have different prompts.",
    )
    system: str | None = key(None, "System message of the chat template; default: that of the template.")


class ClinicConfig(Section):
    """The simulated clinic: consultations written by a seeded generator."""

    size: Literal["small", "medium", "full"] = key("small", "Length of a consultation.")
    seed: int = key(0, "Seed of the generator: row i is a function of (seed, i).", ge=0)
    train_rows: int = key(1000, "Rows of the training split.", ge=1)
    validation_rows: int = key(100, "Rows of the validation split.", ge=0)


class SplitConfig(Section):
    """The split of validation rows from the training sources, if `validation` names none."""

    validation: float = key(
        0.0, "Share of the training rows, or of their groups, that is used for validation.", ge=0, lt=1
    )
    validation_ids: str | None = key(
        None,
        "File with the ids (data.columns.id) of the validation rows, instead of a share: one id per line, a JSON list, or a "
        "JSON object whose keys are ids. All other rows are for training.",
        resumable=True,  # a run is bound to the ids in the file, not to its path
    )
    by: Literal["group", "row"] = key(
        "group",
        "group: by a hash of the document id, so that no document is in both splits. row: by a seeded permutation.",
    )
    seed: int = key(0, "Seed of the split, independent of run.seed.", ge=0)

    def decisive(self) -> dict[str, Any]:
        """Return the keys that determine the split, for a fingerprint that also has the content of the file of ids."""
        return self.model_dump(exclude={"validation_ids"})


class ExtractionConfig(Section):
    """The answer that a model learns for a record with entities and relations."""

    answer: Literal["entities", "relations"] = key(
        "entities", "entities: a JSON list of strings. relations: a JSON list of [first, second]."
    )
    types: tuple[str, ...] = key((), "Types of entities or relations in the answer; empty: all.")


class DataConfig(Section):
    """The records of a run, and how they become tokens."""

    dataset: Dataset | None = key(
        None, "Name of a published corpus, instead of `train` and `validation`; its files are in `root`."
    )
    clinic: ClinicConfig = Field(default_factory=ClinicConfig)
    root: str | None = key(
        None,
        "Folder or URL that `train` and `validation` are relative to; default: the folder of the config.",
        resumable=True,
    )
    train: Sources = key((), "Sources of the training split, one or a list.")
    validation: Sources = key((), "Sources of the validation split, one or a list.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    subsample: float = key(1.0, "Share of the training rows to keep, drawn with run.seed.", gt=0, le=1)
    leakage: Literal["error", "drop", "allow"] = key(
        "error",
        "If an input or group of validation is also in training: stop, drop it from training, or allow it.",
    )
    duplicates: Literal["keep", "drop"] = key(
        "keep", "Rows that repeat the input and target of an earlier row: keep and count them, or drop them."
    )
    decontaminate: tuple[str, ...] = key(
        (),
        "Benchmark files; training rows that share 13 consecutive words with them are dropped. With stages, the files of "
        "every stage hold for all stages.",
    )
    pair_join: Literal["newline", "eos"] | None = key(
        None, "Separator of premise and hypothesis; default: as the corpus was published."
    )
    template: str = key(
        "chat",
        "Template of the text: chat, chatml, alpaca, plain, legacy/{gemma,llama,llama3,mistral,taiyi,adelie}, or a Jinja file.",
    )
    train_turns: Literal["all", "last"] = key("all", "Turns of the assistant that have loss.")
    tokenizer: str = key(
        "model",
        "model: the tokenizer of the model. train: a byte-level BPE trained on the training split, whose vocabulary contains "
        "words of the records. Other values: a packaged model, a folder or a hub id with a tokenizer that fits the model.",
        min_length=1,
    )
    vocab_size: int = key(4096, "Size of a trained tokenizer.", ge=300)
    max_input_tokens: int = key(
        1024, "Longest input; a longer one loses its end, never the prompt, and is counted.", ge=1
    )
    max_prompt_tokens: int | None = key(
        None,
        "Longest prompt, with the tokens of its template; a longer one loses the beginning of its text, and is counted. It "
        "replaces max_input_tokens, which cuts the end.",
        ge=1,
    )
    max_label_tokens: int = key(512, "Longest label; a longer one is cut.", ge=1)
    drop_longer_than: int | None = key(
        None,
        "Drop training rows whose prompt and answer together have at least this many tokens before anything is cut.",
        ge=1,
    )
    max_rationale_tokens: int = key(512, "Longest rationale; a longer one is cut.", ge=1)
    max_rejects: float = key(
        0.01, "Largest share of bad rows that a run accepts.", ge=0, le=1, resumable=True
    )
    shard_rows: int = key(1024, "Rows per token shard.", ge=1)
    window_shards: int = key(
        4,
        "Shards that are shuffled together; training starts when the first of these windows is complete.",
        ge=1,
    )
    pack_tokens: int | None = key(
        None,
        "Pack whole rows into sequences of at most this many tokens, without attention between rows; a row of a batch is "
        "then such a sequence. Causal models only.",
        ge=8,
    )
    length_buckets: bool | None = key(
        None, "Put rows of similar length into one batch; default: true for encoder-decoders."
    )

    @property
    def longest_input(self) -> int:
        """Return the limit of an input, in tokens, whichever key sets it."""
        return self.max_prompt_tokens or self.max_input_tokens

    @field_validator("decontaminate", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_file_or_many(cls, value: object) -> object:
        return () if value is None else (value,) if isinstance(value, str) else value
