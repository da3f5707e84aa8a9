"""Published corpora by name: their files in a folder or at a URL become plain rows, which `schemas` turns into records.

All corpora of the reference systems are here, with the parsers of their teachers' completions and the builder of their
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
    """Return the published splits of a corpus (of train, validation and test).

    With `root`, only splits whose files are in that folder are returned.
    """
    published = tuple(CORPORA[name].counts)
    if root is None:
        return published
    return tuple(split for split in published if _is_there(name, root, split))


def counts(name: str) -> dict[str, int]:
    """Return the published number of rows of each split of a corpus, if it is known."""
    return {split: count for split, count in CORPORA[name].counts.items() if count is not None}


def presets(name: str) -> Presets:
    """Return the default settings of a run that uses this corpus. Its config may override them."""
    return CORPORA[name].presets


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files that `rows` may read, including those of a teacher, as absolute paths or URLs.

    Raises InputError with all names that were tried if the files of the split are absent.
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
    """Yield the rows of a split in their published order.

    dropped: counter of rows left out on purpose, by reason. Raises InputError if files are absent, or if a teacher's
    completions do not match the rows.
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
