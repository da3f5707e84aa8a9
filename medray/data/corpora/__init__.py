"""Published corpora by name: their files in a folder or at a URL become plain rows, which `schemas` turns into records.

Every corpus of the reference systems is here, with the parsers of its teachers' completions and the builder of its
instruct sets. A row that cannot be read keeps its position and carries the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from medray.config.method import RATIONALE_KEYS
from medray.data.corpora import clinical_notes, extraction, instruct, multiclinsum, step_by_step
from medray.data.corpora.locate import AbsentError
from medray.data.corpora.published import (
    CORPORA,
    DIALOGUE,
    NAMES,
    CorpusOptions,
    CorpusRow,
    Presets,
)
from medray.data.corpora.step_by_step import TeacherReport, corruption_warning, teacher_report

__all__ = [
    "DIALOGUE",
    "NAMES",
    "RATIONALE_KEYS",
    "CorpusOptions",
    "CorpusRow",
    "Presets",
    "TeacherReport",
    "corruption_warning",
    "counts",
    "find",
    "presets",
    "rows",
    "splits",
    "teacher_report",
]


def splits(name: str, root: str | None = None) -> tuple[str, ...]:
    """Return the published splits (of train, validation and test); with `root`, only those whose files are in it."""
    published = tuple(CORPORA[name].counts)
    if root is None:
        return published
    return tuple(split for split in published if _is_there(name, root, split))


def counts(name: str) -> dict[str, int]:
    """Return the published number of rows of each split, if known."""
    return {split: count for split, count in CORPORA[name].counts.items() if count is not None}


def presets(name: str) -> Presets:
    """Return the defaults of a run for the corpus, which its config may override."""
    return CORPORA[name].presets


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files that `rows` may read, including a teacher's, as absolute paths or URLs.

    Raises InputError with all names that were tried if the split's own files are absent.
    """
    match CORPORA[name].kind:
        case "steps":
            return step_by_step.find(name, root, split)
        case "notes":
            return clinical_notes.find(name, root, split)
        case "multiclinsum":
            return multiclinsum.find(name, root, split)
        case "instruct":
            return instruct.find(name, root, split)
        case "extraction":
            return extraction.find(name, root, split)


def rows(
    name: str, root: str, split: str, options: CorpusOptions, dropped: Counter[str] | None = None
) -> Iterator[CorpusRow]:
    """Yield the rows of a split in their published order. dropped: counts rows left out on purpose, by reason.

    Raises InputError if files are absent, or if a teacher's completions do not match the rows.
    """
    match CORPORA[name].kind:
        case "steps":
            return step_by_step.rows(name, root, split, options)
        case "notes":
            return clinical_notes.rows(name, root, split, options)
        case "multiclinsum":
            return multiclinsum.rows(name, root, split, options)
        case "instruct":
            return instruct.rows(name, root, split, options, dropped)
        case "extraction":
            return extraction.rows(name, root, split, options, dropped)


def _is_there(name: str, root: str, split: str) -> bool:
    try:
        return bool(find(name, root, split))
    except AbsentError:
        return False
