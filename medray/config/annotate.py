"""The file of `medray data annotate`: the records, the teacher, the prompt, and which of its rationales are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from medray.config.backends import BackendConfig
from medray.config.columns import ColumnsConfig, template_parts
from medray.config.data import ClinicConfig, DataConfig, Dataset, ExtractionConfig, Sources
from medray.config.loading.load import absolute, looks_like_path
from medray.config.loading.own_file import path_near_file, read_own
from medray.config.schema import Config
from medray.config.section import Section, key

PROMPT = """{input}

Explain step by step how to find the answer. Use only facts that are given above or that are generally known in medicine. Then \
write the answer alone on the last line, in the form
Answer: <answer>"""
FIELDS = ("input", "label")  # of a prompt


class AnnotatedDataConfig(Section):
    """The records to annotate. These keys are those of `data` in a config of a run."""

    dataset: Dataset | None = key(
        None, "Name of a published corpus, instead of `train` and `validation`; its files are in `root`."
    )
    clinic: ClinicConfig = Field(default_factory=ClinicConfig)
    root: str | None = key(
        None, "Folder or URL that `train` and `validation` are relative to; default: the folder of this file."
    )
    train: Sources = key((), "Sources of the training split, one or a list.")
    validation: Sources = key((), "Sources of the validation split, one or a list.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    pair_join: Literal["newline", "eos"] | None = key(
        None, "Separator of premise and hypothesis; default: as the corpus was published."
    )

    @model_validator(mode="after")
    def _names_data(self) -> Self:
        if self.dataset is None and not self.train and not self.validation:
            raise ValueError("no records are named", "set data.train: my.jsonl, or data.dataset")
        if self.dataset is not None and (self.train or self.validation):
            raise ValueError(
                "a named dataset and your own files cannot be used together",
                "remove data.dataset, or data.train and data.validation",
            )
        return self


class FilterConfig(Section):
    """The self-consistency filter: a sample of a teacher is kept if its answer equals the label."""

    compare: Literal["auto", "accuracy", "exact_match", "equation", "list", "none"] = key(
        "auto",
        "How an answer is compared with the label. accuracy, exact_match: as these metrics do. equation: by value. list: as "
        "JSON lists in any order. none: not at all; every sample with text counts as right. auto: list for documents with "
        "entities, equation if every label is arithmetic, none if the model is asked for its own rationale, else accuracy.",
    )
    keep: Literal["first", "majority", "all"] = key(
        "first",
        "first: the first right sample; no further one is asked for. majority: the same, if the label is the most frequent "
        "answer of all samples. all: every right sample, as a list.",
    )
    answer: str = key(
        "Answer:",
        "Text before the answer in a reply, ignoring case; its last occurrence counts. The rationale is the text before it.",
        min_length=1,
        max_length=100,
    )
    others: Literal["keep", "drop"] = key(
        "keep",
        "Rows without a right sample. keep: written without a rationale, for the label task. drop: left out.",
    )


class AnnotateConfig(Section):
    """Rationales for labelled records, written by a teacher and filtered by their answers."""

    data: AnnotatedDataConfig = key(..., "The records to annotate.")
    split: Literal["train", "validation"] = key("train", "The split of `data` that is annotated.")
    first: int | None = key(None, "Annotate only this many records, from the first; null: all.", ge=1)
    teacher: BackendConfig = key(..., "The teacher: who writes the rationales.")
    to: str | None = key(None, "JSON lines file to write; --to replaces it.")
    holds: Literal["records", "synthetic"] | None = key(
        None,
        "The kind of text in the records: records (about real patients, or yours) or synthetic (invented). null: synthetic "
        "for the simulated clinic, else records.",
    )
    ask: Literal["prompt", "rationale"] = key(
        "prompt",
        "prompt: ask with `prompt`. rationale: ask a local run that was trained on rationales for its own, as it was trained; "
        "`prompt` is then not used.",
    )
    column: Literal["rationale", "key_words"] = key(
        "rationale",
        "Column to write. key_words: key words of a first model, for method.key_source: generated; the records keep their "
        "own rationale.",
    )
    prompt: str = key(
        PROMPT,
        "The teacher's task. {input} is replaced by the record's input, and {label} by its label, if the teacher is to "
        "explain a label that it is told; {{ and }} are braces.",
    )
    system: str | None = key(None, "System message; null: none.")
    samples: int = key(1, "Most samples per record.", ge=1, le=100)
    temperature: float | None = key(
        None, "Temperature of sampling; null: 0 for one sample, 0.7 for several.", ge=0, le=2
    )
    top_p: float | None = key(
        None, "Sample from the most probable tokens of this share; null: the server's.", gt=0, le=1
    )
    max_new_tokens: int = key(512, "Longest reply, in tokens; a longer one is cut and not used.", ge=1, le=100_000)  # fmt: skip
    filter: FilterConfig = key(FilterConfig(), "Which samples are kept.")
    budget: float | None = key(
        None, "Most that all starts together may cost, in the currency of the price; null: no limit.", ge=0
    )
    seed: int = key(0, "Seed of sampling and of the random part of waits.", ge=0, lt=2**31)

    @property
    def heat(self) -> float:
        """Return the temperature, with its default."""
        return (0.7 if self.samples > 1 else 0.0) if self.temperature is None else self.temperature

    @field_validator("prompt")
    @classmethod
    def _has_its_fields(cls, value: str) -> str:
        named = [name for name, is_field in template_parts(value) if is_field]
        if "input" not in named:
            raise ValueError("contains no {input}, so the teacher would not see the record", "add {input}")
        for name in named:
            if name not in FIELDS:
                raise ValueError(
                    f"contains {{{name}}}, which is neither {{input}} nor {{label}}",
                    "write {{ and }} for braces of the text",
                )
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        compares = self.filter.compare not in ("none", "auto")
        if self.samples > 1 and self.heat == 0:
            raise ValueError(
                "at temperature 0 all samples of a record are the same", "set temperature: 0.7, or samples: 1"
            )
        if self.ask == "rationale":
            if self.teacher.type != "local":
                raise ValueError(
                    "only a local run can be asked for its own rationale",
                    "set teacher.type: local and teacher.model: a run, or ask: prompt",
                )
            if compares:
                raise ValueError(
                    "a rationale of the model's own has no answer to compare",
                    "set filter.compare: none, or ask: prompt",
                )
        elif self.shows_label and self.filter.compare != "none":
            raise ValueError(
                "the prompt shows the label, so an answer that equals it proves nothing",
                "set filter.compare: none, or remove {label} from prompt",
            )
        if self.budget is not None and self.teacher.price is None:
            raise ValueError("the teacher has no price, so that no cost is known", "set teacher.price")
        if self.filter.keep == "majority" and self.samples < 3:
            raise ValueError("a majority needs at least 3 samples", "set samples: 5, or filter.keep: first")
        return self

    @property
    def shows_label(self) -> bool:
        return ("label", True) in template_parts(self.prompt)

    def run_config(self) -> Config:
        """Return a config of a run that has these records."""
        return Config(
            data=DataConfig(**{name: getattr(self.data, name) for name in self.data.model_fields_set})
        )


def read_annotate(path: str | Path, overrides: Iterable[str] = ()) -> AnnotateConfig:
    """Return the config of an annotation with absolute paths; relative ones are relative to the folder of the file.

    Raises InputError as `read_own` does.
    """
    config = read_own(AnnotateConfig, path, overrides)
    data = absolute(config.run_config(), Path(path)).data
    changes: dict[str, str] = {}
    teacher, name = config.teacher, config.teacher.model or ""
    if teacher.file is not None:
        changes["file"] = path_near_file(teacher.file, path, "teacher.file")
    if teacher.type == "local" and (
        looks_like_path(name) or os.path.isdir(Path(path).resolve().parent / name)
    ):
        changes["model"] = path_near_file(name, path, "teacher.model")
    paths = {name: getattr(data, name) for name in ("root", "train", "validation")}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=paths),
            "teacher": teacher.model_copy(update=changes),
            "to": config.to and path_near_file(config.to, path, "to"),
        }
    )
