"""The builder of the published instruct sets: wikidoc and MedQuAD as rows of instruction, input and output.

A set is wikidoc, medquad, the concatenation of both (combined), or 2,000 rows of both (combined_short). A set with the
prompt column of a model family is a version, such as gemma/combined_short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medray.data.corpora.locate import WORDS, File, Names, absent, folders, look, rows_of
from medray.data.corpora.published import CORPORA, CorpusOptions, CorpusRow
from medray.data.encode.templates import render
from medray.data.records import BadRowError
from medray.errors import InputError

INSTRUCTION = "Answer the question truthfully, you are a medical professional."
SHORT_ROWS = 2000
_HEAD, _TAIL = slice(None, 1000), slice(-5000, -4000)
_FAMILIES = ("gemma", "llama2", "llama3", "mistral")
_SETS = {
    "combined": "medical_{}_instruct_dataset",
    "combined_short": "medical_{}_instruct_dataset_short",
    "medquad": "{}_medquad_instruct_dataset",
    "wikidoc": "{}_medical_meadow_wikidoc_instruct_dataset",
}
VERSIONS = tuple(f"{family}/{name}" for family in _FAMILIES for name in _SETS)
# Texts that pandas reads as missing values in a CSV file, as in the published builder.
_NO_VALUE = {
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
_STEMS = {
    "wikidoc": ("wikidoc", "medical_meadow_wikidoc"),
    "medquad": ("medquad", "MedQuAD", "medquad_*", "medDataset_processed"),
}


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files of the corpus. Raises InputError if they are absent."""
    return [file.path for file in _sources(name, root)]


def rows(
    name: str, root: str, split: str, options: CorpusOptions, dropped: Counter[str] | None = None
) -> Iterator[CorpusRow]:
    """Yield rows with id, instruction, input, output, source.

    dropped: counter of rows left out, by reason. Rows without a question or an answer are left out, and so are
    repeated pairs of question and answer, except for the first.
    """
    dropped = Counter() if dropped is None else dropped
    seen: set[tuple[str, str]] = set()
    for number, each in enumerate(rows_of(_sources(name, root), dropped)):
        if isinstance(each.row, BadRowError):
            yield each
            continue
        csv = each.file.endswith(".csv")
        try:
            question, answer = (
                _value(each.row, names, csv) for names in (("question", "input"), ("answer", "output"))
            )
            source = _value(each.row, ("source",), csv) or name
        except BadRowError as reason:
            yield each._replace(row=reason)
            continue
        if question is None or answer is None:
            dropped["no question or no answer"] += 1
        elif (question, answer) in seen:
            dropped["repeats an earlier row"] += 1
        else:
            seen.add((question, answer))
            made = {"instruction": INSTRUCTION, "input": question, "output": answer, "source": source}
            yield each._replace(row={"id": f"{name}-{split}-{number}", **made})


def published_name(version: str) -> str:
    """Return the name under which a version was published. llama is the first name of llama2.

    Raises InputError for an unknown version.
    """
    family, _, name = version.partition("/")
    if family not in (*_FAMILIES, "llama") or name not in _SETS:
        raise InputError(
            "this is not a version of the instruct sets",
            key="--version",
            value=version,
            fix=f"use one of {', '.join(VERSIONS)}",
        )
    return _SETS[name].format(family)


def sources_of(version: str) -> tuple[str, ...]:
    """Return the corpora that a version is built from, in order."""
    name = version.partition("/")[2]
    return ("wikidoc", "medquad") if name.startswith("combined") else (name,)


def short(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the published short set: rows [:1000] and [-5000:-4000] of the combined table."""
    if len(table) < 6000:
        raise InputError(
            f"the two slices of the short set need a table of 6,000 rows, but it has {len(table):,}",
            key="--subset",
            value="short",
            fix="use --subset sample --rows N",
        )
    return [*table[_HEAD], *table[_TAIL]]


def sample(table: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw `count` rows with `seed`, in the table's order. Each source keeps its share, to within one row."""
    if not 0 < count <= len(table):
        raise InputError(
            f"the sample needs more rows than there are: {len(table):,} rows",
            key="--rows",
            value=count,
            fix=f"use --rows {len(table)} or fewer",
        )
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(table):
        groups.setdefault(row["source"], []).append(number)
    exact = {source: count * len(numbers) / len(table) for source, numbers in groups.items()}
    shares = {source: int(share) for source, share in exact.items()}
    largest = sorted(groups, key=lambda source: (shares[source] - exact[source], source))
    for source in largest[: count - sum(shares.values())]:
        shares[source] += 1
    draw = np.random.default_rng(seed)
    chosen = [
        groups[source][place]
        for source in sorted(groups)
        for place in draw.permutation(len(groups[source]))[: shares[source]]
    ]
    return [table[number] for number in sorted(chosen)]


def with_prompt(table: Sequence[Mapping[str, Any]], family: str) -> list[dict[str, str]]:
    """Return the rows of a version with the published columns: output, input, instruction, prompt."""
    return [
        {
            **{column: row[column] for column in ("output", "input", "instruction")},
            "prompt": render(family, row["instruction"], row["input"], row["output"]),
        }
        for row in table
    ]


def _sources(name: str, root: str) -> list[File]:
    places = folders(root, *CORPORA[name].folders)
    wanted = [
        Names(f"{stem}{word}")
        for stem in _STEMS[name]
        for word in ("", *(f"_{word}" for word in WORDS["train"]))
    ]
    wanted += [Names(word) for word in WORDS["train"]]
    if name == "medquad":
        wanted += [Names(stem, ("xml",), "medquad_xml") for stem in ("*_QA*/*", "*/*_QA*/*", "medquad")]
    found = look(places, wanted)
    if not found:
        raise absent(name, "train", places, wanted)
    return found


def _value(row: Mapping[str, Any], columns: Sequence[str], csv: bool) -> str | None:
    """Return the text of the first column that the row has, or None if that is a missing value."""
    column = next((column for column in columns if column in row), None)
    if column is None and "source" in columns:
        return None
    if column is None:
        raise BadRowError(f"no column {' or '.join(map(repr, columns))}")
    value = row[column]
    if value is None or value != value or value == "" or (csv and value in _NO_VALUE):
        return None
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r} holds a {type(value).__name__}, not text")
    return value
