"""The corpora of Distilling Step-by-Step: fields of the source become input and gold label, joined with a teacher's
rationale.

Both published forms are read: the sources' own fields, and files that already have `input` and `label`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from medray.data import arithmetic, files
from medray.data.corpora import teachers
from medray.data.corpora.locate import File, Names, absent, beside, folders, look, rows_of, split_names
from medray.data.corpora.published import (
    CORPORA,
    SVAMP_TRAIN_ROWS,
    CorpusOptions,
    CorpusRow,
    svamp_permutation,
    text,
)
from medray.data.corpora.teacher_parsers import Taught, parser
from medray.data.readers.xml_elements import elements
from medray.data.records import BadRowError
from medray.errors import InputError

Row = Mapping[str, Any]
_NLI_LABELS = ("entailment", "neutral", "contradiction")
_SMALL_FILES = 10  # of esnli's completions: the published subset
_RAW_SVAMP, _RAW_ASDIV = Names("SVAMP", ("json",)), Names("ASDiv", ("xml",), "medquad_xml")


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files of a split and of all its teachers. Raises InputError if the split's own files are absent."""
    found = []
    for part in _parts(name, split):
        sources = _sources(part, root, split, name)
        found += [file.path for file in sources]
        for teacher in ("palm", "gpt"):
            if parser(part, teacher):
                found += [file.path for file in teachers.find(part, sources[0].folder, split, teacher)]
    return found


def rows(name: str, root: str, split: str, options: CorpusOptions) -> Iterator[CorpusRow]:
    """Yield rows with id, input, label and, if a teacher's completions exist, rationale."""
    if options.pair_join and CORPORA[name].pair_join is None:
        raise InputError(
            f"{name} has no premise and hypothesis to join",
            key="data.pair_join",
            value=options.pair_join,
            fix="set data.pair_join: null",
        )
    replaced = options.label_source == "llm" and split == "train"
    for part, number, row, taught in taught_rows(name, root, split, options):
        if isinstance(row.row, BadRowError):
            yield row
            continue
        made = {"id": f"{part}-{split}-{number}", **row.row}
        made.pop("rationale", None)
        if taught is not None:
            made["rationale"] = taught.rationale
            made["label"] = taught.label if replaced else made["label"]
        yield row._replace(row=made)


def taught_rows(
    name: str, root: str, split: str, options: CorpusOptions
) -> Iterator[tuple[str, int, CorpusRow, Taught | None]]:
    """Yield (corpus, row number in its split, row with the gold label, the teacher's answer or None) for every row."""
    for part in _parts(name, split):
        sources = _sources(part, root, split, name)
        source = _gold(part, sources, split, options)
        small = part == "esnli" and options.subset == "small" and split == "train"
        if small:
            source = islice(source, _SMALL_FILES * teachers.ROWS_PER_FILE[part])
        taught = _taught(part, source, sources[0].folder, split, options, _SMALL_FILES if small else None)
        for number, (row, words) in enumerate(taught):
            yield part, number, row, words


def _taught(
    name: str, source: Iterator[CorpusRow], folder: str, split: str, options: CorpusOptions, most: int | None
) -> Iterator[tuple[CorpusRow, Taught | None]]:
    """Yield rows with the teacher's answers. most: read at most this many of its files."""
    teacher = options.teacher or CORPORA[name].teacher or "generic"
    if teacher == "generic":
        yield from ((row, _own_words(row)) for row in source)
        return
    parse = parser(name, teacher)
    if parse is None:
        raise InputError(
            f"{name} was published without completions of this teacher",
            key="method.teacher",
            value=teacher,
            fix="set method.teacher: null",
        )
    found = teachers.find(name, folder, split, teacher)[:most]
    if found:
        for row, completion in teachers.attach(source, found, name, split, teacher):
            yield row, parse(completion)
    elif options.teacher or (options.label_source == "llm" and split == "train"):
        raise teachers.absent(name, folder, split, teacher)
    else:
        yield from ((row, None) for row in source)


def _own_words(row: CorpusRow) -> Taught | None:
    """Return rationale and label from the row's own columns."""
    if isinstance(row.row, BadRowError) or not isinstance(row.row.get("rationale"), str):
        return None
    return Taught(row.row["rationale"], row.row["label"])


def _parts(name: str, split: str) -> tuple[str, ...]:
    """Return the corpora of a split: asdiv adds rows to the training split of svamp, and is tested on svamp."""
    if name != "asdiv":
        return (name,)
    return ("svamp", "asdiv") if split == "train" else ("svamp",)


def _sources(name: str, root: str, split: str, asked: str) -> list[File]:
    """Return the files of a corpus. asked: the corpus that the user asked for; asdiv reads svamp too."""
    places, wanted = folders(root, *CORPORA[name].folders), _wanted(name, split)
    if asked == "asdiv":
        # With two corpora in one root, a file named just "train" belongs to the corpus whose folder holds it.
        *inside, whole = places
        named = [*inside, *folders(beside(whole), *CORPORA[name].folders)[:-1]]
        found = look(named, wanted) or look([whole], [each for each in wanted if name in each.stem.lower()])
    else:
        found = look(places, wanted)
    if not found:
        raise absent(name if name == asked else f"{name}, on which {asked} builds,", split, places, wanted)
    return found


def _wanted(name: str, split: str) -> list[Names]:
    wanted = split_names(name, split=split)
    if name == "cqa" and split == "test":  # the second split of CoS-E has answers, its test split has none
        return [Names("cqa_test"), *split_names("cqa", split="validation"), Names("test")]
    if name == "svamp":
        return [*wanted, _RAW_SVAMP]
    if name == "asdiv":
        return [*wanted, Names("asdiv"), Names("ASDiv"), _RAW_ASDIV]
    if name == "anli1":
        word = "dev" if split == "validation" else split
        return [
            *wanted,
            Names(f"R1/{word}", ("jsonl",)),
            Names(f"{word}_r1"),
            Names(f"plain_text/{word}_r1-*", ("parquet",)),
        ]
    return [*wanted, Names("data")] if split == "train" else wanted


def _gold(name: str, found: list[File], split: str, options: CorpusOptions) -> Iterator[CorpusRow]:
    if found[0].path.endswith("/SVAMP.json"):
        raw = _permuted(list(rows_of(found)), split)
    elif found[0].path.endswith("/ASDiv.xml"):
        raw = _asdiv_xml(found[0])
    else:
        raw = rows_of(found)
    join = {None: options.eos_token, "eos": options.eos_token, "newline": "\n"}[options.pair_join]
    for each in raw:
        if isinstance(each.row, BadRowError):
            yield each
            continue
        try:
            yield each._replace(row=_record(name, each.row, join))
        except BadRowError as reason:
            yield each._replace(row=reason)


def _permuted(raw: list[CorpusRow], split: str) -> Iterator[CorpusRow]:
    order = svamp_permutation(len(raw))
    chosen = order[:SVAMP_TRAIN_ROWS] if split == "train" else order[SVAMP_TRAIN_ROWS:]
    return (raw[number] for number in chosen)


def _asdiv_xml(file: File) -> Iterator[CorpusRow]:
    with files.open_binary(file.path) as stream:
        for line, element, _ in elements(stream, file.name, "Problem"):
            yield CorpusRow(file.name, line, {child.tag: child.text or "" for child in element})


def _record(name: str, row: Row, join: str) -> dict[str, Any]:
    """Return input and label, and the row's columns that records have: rationale, lang, group."""
    ready = "input" in row  # no source has a field of this name
    read = _ready if ready else _FIELDS.get(name, _ready)
    source, label = read(row, join)
    if ready and CORPORA[name].pair_join:
        label = _nli_label(row.get("label", label))
    known = {column: row[column] for column in ("rationale", "lang", "group") if row.get(column) is not None}
    return {"input": source, "label": label, **known}


def _ready(row: Row, join: str) -> tuple[str, str]:
    return text(row, "input"), text(row, "label", "output")


def _cqa(row: Row, join: str) -> tuple[str, str]:
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) != 5:
        raise BadRowError("column 'choices' does not have five choices")
    lines = [f"({letter}) {choice}" for letter, choice in zip("abcde", choices, strict=True)]
    return "\n".join([text(row, "question"), "Answer Choices:", *lines]), text(row, "answer")


def _svamp(row: Row, join: str) -> tuple[str, str]:
    return f"{text(row, 'Body')}\n{text(row, 'Question')}", text(row, "Equation")


def _asdiv(row: Row, join: str) -> tuple[str, str]:
    answer = text(row, "Answer", "answer")
    return f"{text(row, 'Body', 'body')}\n{text(row, 'Question', 'question')}", answer.split(" ")[0]


def _nli(row: Row, join: str) -> tuple[str, str]:
    pair = join.join((text(row, "premise", "context"), text(row, "hypothesis")))
    return pair, _nli_label(row.get("label"))


def _nli_label(label: object) -> str:
    """Return the label word of a number, of the word itself, or of its first letter as in the published files of ANLI."""
    if isinstance(label, int) and 0 <= label < len(_NLI_LABELS):
        return _NLI_LABELS[label]
    word = next((word for word in _NLI_LABELS if label in (word, word[0])), None)
    if word is None:
        raise BadRowError("column 'label' is not one of 0, 1, 2, entailment, neutral, contradiction")
    return word


_FIELDS: dict[str, Callable[[Row, str], tuple[str, str]]] = {
    "cqa": _cqa,
    "svamp": _svamp,
    "asdiv": _asdiv,
    "esnli": _nli,
    "anli1": _nli,
}


# "Not" became "Negativet", "Now" became "Negativew"; real English words are left out.
_BROKEN = re.compile(r"Negative(?!s\b|d\b|ly\b|ness(es)?\b)[a-z]")


def corruption_warning(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Count inputs and rationales with broken words. Return a warning with the numbers, or None if there are none."""
    total = inputs = rationales = 0
    for row in rows:
        total += 1
        inputs += _is_broken(row.get("input"))
        rationales += _is_broken(row.get("rationale"))
    if not inputs + rationales:
        return None
    return (
        f'{inputs} inputs and {rationales} rationales of {total} rows contain broken words such as "Negativet": every '
        '"No" was replaced by "Negative". Use the rationale files published as set_back or those of GPT-3.5'
    )


def _is_broken(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_is_broken(each) for each in value.values())
    if isinstance(value, list):
        return any(_is_broken(each) for each in value)
    return isinstance(value, str) and _BROKEN.search(value) is not None


@dataclass(frozen=True)
class TeacherReport:
    """Numbers about the quality of a teacher's labels and rationales in one split.

    right: rows whose teacher label equals the gold label. comparison: text (equal strings) or equation (equal values,
    computed with fractions). not_computable: labels that are not arithmetic, including parse failures; 0 if texts are
    compared.
    """

    rows: int
    labelled_right: int
    parse_failures_label: int
    parse_failures_rationale: int
    mean_rationale_words: float
    comparison: str
    not_computable: int

    @property
    def accuracy(self) -> float:
        return self.labelled_right / self.rows if self.rows else 0.0


def teacher_report(name: str, root: str, split: str, options: CorpusOptions) -> TeacherReport | None:
    """Compute the report on a teacher over the whole split, before rows are held out.

    Return None if it has no completions.
    """
    equation = name in ("svamp", "asdiv")
    rows = right = blank_labels = blank_rationales = words = no_value = 0
    for _, _, row, taught in taught_rows(name, root, split, options):
        if taught is None or isinstance(row.row, BadRowError):
            continue
        rows += 1
        gold = row.row["label"]
        if equation:
            no_value += arithmetic.value(taught.label, legacy_and=options.legacy_and) is None
            right += arithmetic.equal(taught.label, gold, legacy_and=options.legacy_and)
        else:
            right += taught.label == gold
        blank_labels += not taught.label.strip()
        blank_rationales += not taught.rationale.strip()
        words += len(taught.rationale.split())
    if not rows:
        return None
    kind = "equation" if equation else "text"
    return TeacherReport(rows, right, blank_labels, blank_rationales, words / rows, kind, no_value)
