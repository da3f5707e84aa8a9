"""A table of the published corpora: their splits, sizes, licences, and the default settings of runs that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from medray.config.columns import ColumnsConfig
from medray.config.data import ExtractionConfig, PromptsConfig
from medray.data.records import BadRowError
from medray.errors import InputError

Kind = Literal["steps", "notes", "multiclinsum", "instruct", "extraction"]

HOLD_OUT_SHARE, HOLD_OUT_SEED = 0.1, 0
SVAMP_TRAIN_ROWS = 800
UNVERIFIED = "licence not verified: ask its publisher before use"


@dataclass(frozen=True)
class CorpusOptions:
    """Options for reading a published corpus.

    label_source: gt keeps the gold labels; with llm, the teacher's labels replace those of the training split. teacher:
    palm, gpt, generic; None: the corpus's own teacher if its files exist. pair_join: what separates premise and
    hypothesis in the input: newline, or eos (the text `eos_token`); None: as published. legacy_and: when
    `teacher_report` compares equations, `(a) and (b)` has the value of b (0 if a is 0), as in the published evaluation;
    otherwise it has no value. subset: "small" is the first tenth of esnli.
    """

    label_source: str = "gt"
    teacher: str | None = None
    pair_join: str | None = None
    eos_token: str = "</s>"
    legacy_and: bool = False
    subset: str | None = None


class CorpusRow(NamedTuple):
    """A row of a published corpus, or the reason why it cannot be read.

    line: its line from 1, or its number if the file has no lines.
    """

    file: str
    line: int
    row: dict[str, Any] | BadRowError


# Prompts of dialogues, including the simulated clinic. A user's own sources have none.
DIALOGUE = PromptsConfig(
    label="Summarize this dialogue", rationale="Extract the key information from this dialogue"
)


@dataclass(frozen=True)
class Presets:
    """The default settings of a run that uses this corpus. Its config may override them.

    prompts_by_lang: prompts of rows in other languages. pair_join: the separator in the published inputs. hold_out:
    share of the training rows used for validation, drawn with seed 0, if there is no validation split. teacher: the
    teacher whose completions the corpus includes.
    """

    form: str
    licence: str
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    prompts: PromptsConfig = DIALOGUE
    prompts_by_lang: Mapping[str, PromptsConfig] = field(default_factory=dict)
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    pair_join: str | None = None
    hold_out: float = HOLD_OUT_SHARE
    teacher: str | None = None


@dataclass(frozen=True)
class Published:
    """The facts about one published corpus.

    counts: published number of rows of each split; None if unknown. folders: possible names of its folder. documents:
    for an extraction corpus, the corpus whose documents it reads.
    """

    kind: Kind
    counts: Mapping[str, int | None]
    folders: tuple[str, ...]
    licence: str = UNVERIFIED
    prompts: PromptsConfig = DIALOGUE
    prompts_by_lang: Mapping[str, PromptsConfig] = field(default_factory=dict)
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    pair_join: str | None = None
    teacher: str | None = None
    documents: str = ""

    @property
    def presets(self) -> Presets:
        form = {"steps": "columns", "instruct": "alpaca", "extraction": "bigbio"}.get(self.kind, "auto")
        return Presets(
            form=form,
            licence=self.licence,
            prompts=self.prompts,
            prompts_by_lang=self.prompts_by_lang,
            extraction=self.extraction,
            pair_join=self.pair_join,
            teacher=self.teacher,
        )


def _prompts(label: str, rationale: str | None = None) -> PromptsConfig:
    return PromptsConfig(label=label, rationale=rationale or DIALOGUE.rationale)


def _steps(
    *folders: str,
    teacher: str = "palm",
    licence: str = UNVERIFIED,
    pair_join: str | None = None,
    **counts: int | None,
) -> Published:
    return Published(
        "steps",
        counts,
        folders,
        licence=licence,
        prompts=_prompts("predict", "explain"),
        pair_join=pair_join,
        teacher=teacher,
    )


def _notes(
    label: str, folders: tuple[str, ...], licence: str = UNVERIFIED, **counts: int | None
) -> Published:
    prompts = _prompts(label, "Please extract the key information from the dialogue")
    return Published("notes", counts, folders, licence=licence, prompts=prompts)


def _ner(
    kind: str, documents: str, types: tuple[str, ...] = (), licence: str = UNVERIFIED, **counts: int | None
) -> Published:
    return Published(
        "extraction",
        counts,
        (documents, f"{documents}_bigbio_kb"),
        licence=licence,
        prompts=_prompts(f"List every {kind} that the text names, as a JSON list of strings"),
        extraction=ExtractionConfig(answer="entities", types=types),
        documents=documents,
    )


def _re(pairs: str, documents: str, licence: str = UNVERIFIED, **counts: int | None) -> Published:
    return Published(
        "extraction",
        counts,
        (documents, f"{documents}_bigbio_kb"),
        licence=licence,
        prompts=_prompts(
            f"List every pair of {pairs} that the text relates, as a JSON list of [first, second]"
        ),
        extraction=ExtractionConfig(answer="relations"),
        documents=documents,
    )


_MTS = "MIT over CC BY 4.0 (MTS-Dialog)"
_CDR = "public domain"
_SUMMARIZE = "Please summarize this dialogue"
_CLINICAL = _prompts("Summarize clinical text", "Extract the key information from clinical text")
_CLINICAL_BY_LANG = {
    "en": _CLINICAL,
    "es": _prompts("Resumir el texto clínico", _CLINICAL.rationale),
    "fr": _prompts("Résumer le texte clinique", _CLINICAL.rationale),
    "pt": _prompts("Resumir texto clínico", _CLINICAL.rationale),
}

CORPORA: dict[str, Published] = {
    "cqa": _steps("cqa", "cos_e", train=9741, test=1221),
    "svamp": _steps(
        "svamp", "svamp_palm", "SVAMP", train=800, test=200, licence="MIT (SVAMP), Apache-2.0 (completions)"
    ),
    "asdiv": _steps("asdiv", "ASDiv", train=None, test=200),
    "esnli": _steps("esnli", train=549367, validation=9842, test=9824, pair_join="eos"),
    "anli1": _steps(
        "anli1",
        "anli",
        train=16946,
        validation=1000,
        test=1000,
        pair_join="eos",
        licence="CC BY-NC 4.0, no commercial use (not verified)",
    ),
    "generic": _steps(
        "generic", teacher="generic", train=None, test=None, licence="Apache-2.0 (the published sample)"
    ),
    "medqa_d2n": _notes(
        _SUMMARIZE, ("medqa_d2n", "medistill_d2n", "mts_dialog"), _MTS, train=1201, validation=100, test=200
    ),
    "medqa_n2d": _notes(
        "Please write the dialogue that this note was made from",
        ("medqa_n2d", "medqa_d2n", "medistill_d2n", "mts_dialog"),
        _MTS,
        train=1201,
        validation=200,
        test=100,
    ),
    "medsum": _notes(_SUMMARIZE, ("medsum",), train=800, validation=66, test=134),
    "full_note": _notes(_SUMMARIZE, ("full_note", "taskB"), train=67, validation=20, test=40),
    "multiclinsum": Published(
        "multiclinsum",
        {"train": 1892, "validation": 20, "test": 456},
        ("multiclinsum", "multiclinsum_rationale"),
        prompts=_CLINICAL,
        prompts_by_lang=_CLINICAL_BY_LANG,
    ),
    "wikidoc": Published("instruct", {"train": 10000}, ("wikidoc", "medical_meadow_wikidoc")),
    "medquad": Published("instruct", {"train": 16407}, ("medquad", "MedQuAD"), licence="CC BY 4.0"),
    "bc5cdr_chemical": _ner("chemical", "bc5cdr", ("Chemical",), _CDR, train=500, validation=500, test=500),
    "bc5cdr_disease": _ner("disease", "bc5cdr", ("Disease",), _CDR, train=500, validation=500, test=500),
    "bc5cdr": _re("a chemical and a disease it causes", "bc5cdr", _CDR, train=500, validation=500, test=500),
    "nlm_gene": _ner("gene", "nlm_gene", train=None, test=None),
    "ncbi_disease": _ner(
        "disease", "ncbi_disease", licence="public domain", train=None, validation=None, test=None
    ),
    "chemdner": _ner("chemical", "chemdner", train=None, validation=None, test=None),
    "ddi_corpus": _re("interacting drugs", "ddi_corpus", train=None, test=None),
    "biorelex": _re("binding entities", "biorelex", train=None, test=None),
}
NAMES = tuple(CORPORA)


def text(row: Mapping[str, Any], *columns: str) -> str:
    """Return the unchanged text of the first of these columns that the row has.

    Raises BadRowError if it has none of them.
    """
    column = next((column for column in columns if column in row), None)
    if column is None:
        raise BadRowError(f"no column {' or '.join(map(repr, columns))}")
    value = row[column]
    if isinstance(value, bool | int | float):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise BadRowError(f"column {column!r} holds a {type(value).__name__}, not text")
    if value is None or not value.strip():
        raise BadRowError(f"column {column!r} is empty")
    return value


def subsample(count: int, share: float, seed: int) -> np.ndarray:
    """Draw a random `share` of `count` rows.

    Return their indices, int64 [kept], in the order that `datasets` yields.

    Raises InputError if no row would be left.
    """
    if share >= 1 or count == 0:
        return np.arange(count)
    return _numbers(_cut(count, 1 - share, seed, "data.subsample")["train"])


def holdout(
    count: int, share: float = HOLD_OUT_SHARE, seed: int = HOLD_OUT_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Split `count` rows at random. Return the row numbers of (training, validation), int64.

    Raises InputError if a part would be empty.
    """
    if share <= 0 or count == 0:
        return np.arange(count), np.arange(0)
    parts = _cut(count, share, seed, "data.split.validation")
    return _numbers(parts["train"]), _numbers(parts["test"])


def svamp_permutation(count: int = 1000) -> np.ndarray:
    """Return the published order of SVAMP.json's rows, int64 [count]: the first 800 train, the rest are the test split."""
    return np.random.RandomState(0).permutation(count)


def _cut(count: int, test_share: float, seed: int, key: str) -> Any:
    from datasets import Dataset

    table = Dataset.from_dict({"row": np.arange(count)})
    try:
        return table.train_test_split(test_size=test_share, seed=seed, keep_in_memory=True)
    except ValueError:
        raise InputError(
            f"a share of {test_share:g} of {count} rows leaves one of the two parts empty",
            key=key,
            fix="use another share, or set data.validation to a file",
        ) from None


def _numbers(table: Any) -> np.ndarray:
    return np.asarray(table.with_format("numpy")["row"][:], dtype=np.int64)
