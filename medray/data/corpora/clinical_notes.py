"""Corpora of dialogues with clinical notes: the files of MeDistill, and the published files that they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medray.data.corpora.locate import (
    ROWS,
    WORDS,
    File,
    Names,
    absent,
    beside,
    folders,
    look,
    rows_of,
    split_names,
)
from medray.data.corpora.published import CORPORA, CorpusOptions, CorpusRow, text
from medray.data.records import BadRowError

_INPUTS = ("input", "dialogue")
_LABELS = ("label", "output", "section_text", "note", "summary")
_SETS = {"train": "TrainingSet", "validation": "ValidationSet", "test": "TestSet*"}


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files of a split. Raises InputError if they are absent."""
    return [file.path for file in _sources(name, root, split)[0]]


def rows(name: str, root: str, split: str, options: CorpusOptions) -> Iterator[CorpusRow]:
    """Yield rows with id, input, label and the published rationale (text, list or {key: text}).

    Two-step rows are unchanged.
    """
    found, reverse = _sources(name, root, split)
    for number, each in enumerate(rows_of(found)):
        if isinstance(each.row, BadRowError):
            yield each
            continue
        try:
            yield each._replace(row=_record(each.row, f"{name}-{split}-{number}", reverse))
        except BadRowError as reason:
            yield each._replace(row=reason)


def _sources(name: str, root: str, split: str) -> tuple[list[File], bool]:
    """Return the files of a split, and whether their columns of dialogue and note are swapped."""
    places = folders(root, *CORPORA[name].folders)
    if (
        name == "full_note"
    ):  # published as taskB, with the file names of medqa_d2n; `root` may be that folder itself
        places.append(beside(places[-1]))
    wanted = _wanted(name, split)
    found = look(places, wanted)
    if found or name != "medqa_n2d":
        if not found:
            raise absent(name, split, places, wanted)
        return found, False
    forward = _wanted("medqa_d2n", split)
    found = look(places, forward)
    if not found:
        raise absent(name, split, places, [*wanted, *forward])
    return found, True


def _wanted(name: str, split: str) -> list[Names]:
    if name == "medqa_n2d":  # a file named just "train" is the forward direction
        return [Names(f"medqa_n2d_{word}") for word in WORDS[split]]
    if name == "full_note":
        stems = [
            f"{stem}_{word}" for stem in ("full_note", "taskB/medqa_d2n", "taskB") for word in WORDS[split]
        ]
        stems += [f"taskB/{word}" for word in WORDS[split]]
        return [*(Names(stem) for stem in stems), Names(f"TaskB-{_SETS[split]}", ("csv",))]
    wanted = split_names(name, split=split)
    if name == "medqa_d2n":
        both = [Names("medqa_d2n_test[12]")] if split == "test" else []
        return [*both, *wanted, Names(f"MTS-Dialog-{_SETS[split]}", ("csv",))]
    return [names for names in wanted if names.endings == ROWS]


def _record(row: Mapping[str, Any], name: str, reverse: bool) -> dict[str, Any]:
    if "input_1" in row and "input_2" in row:
        if reverse:
            raise BadRowError(
                "this is a two-step row, but the reversed corpus needs a dialogue with its note"
            )
        return {"id": name, **row}
    source, label = text(row, *_INPUTS), text(row, *_LABELS)
    known = {column: row[column] for column in ("rationale", "lang", "group") if row.get(column) is not None}
    return {"id": name, "input": label if reverse else source, "label": source if reverse else label, **known}
