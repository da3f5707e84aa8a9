"""MultiClinSum: case reports and summaries in four languages, shuffled and split as MeDistill's decoder was trained.

Each language is shuffled by Python's `random.Random(42)` and split .8/.01/.19. If all languages have the same reports in the
same order, a report is in the same split in every language; otherwise the ids of the reports are shuffled instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from medray.data import files
from medray.data.corpora.locate import File, Names, absent, folders, look, rows_of
from medray.data.corpora.published import CORPORA, CorpusOptions, CorpusRow, text
from medray.data.records import BadRowError
from medray.errors import InputError

LANGUAGES = ("en", "es", "fr", "pt")
INPUT_CHARACTERS, OUTPUT_CHARACTERS = 2560, 512  # limits of train and validation
_SEED, _TRAIN, _VALIDATION = 42, 0.8, 0.01
_NAME = "multiclinsum"


def find(name: str, root: str, split: str) -> list[str]:
    """Return all files of the corpus, because every split is drawn from all of them."""
    return [
        path
        for pairs in _sources(root).values()
        for file, other in pairs
        for path in (file.path, other)
        if path
    ]


def rows(name: str, root: str, split: str, options: CorpusOptions) -> Iterator[CorpusRow]:
    """Yield rows with id, input, label, lang, group (the report) and, except in the test split, rationale.

    Rows of one language come before those of the next.
    """
    reports = {lang: list(_reports(lang, pairs)) for lang, pairs in _sources(root).items()}
    chosen = _split({lang: [document for document, _ in found] for lang, found in reports.items()})
    for lang, found in reports.items():
        for number in chosen[lang][split]:
            document, each = found[number]
            if isinstance(each.row, BadRowError):
                yield each
                continue
            try:
                record = _record(each.row, f"{_NAME}-{lang}-{document}", split)
            except BadRowError as reason:
                yield each._replace(row=reason)
            else:
                yield each._replace(row={**record, "lang": lang, "group": document})


def split_rows(count: int) -> dict[str, list[int]]:
    """Return the row numbers of each split, for `count` shuffled rows. 592 rows give 473, 5 and 114."""
    order = list(range(count))
    random.Random(_SEED).shuffle(order)
    train = int(count * _TRAIN)
    validation = train + int(count * _VALIDATION)
    return {"train": order[:train], "validation": order[train:validation], "test": order[validation:]}


def _split(documents: Mapping[str, list[str]]) -> dict[str, dict[str, list[int]]]:
    """Return the row numbers of each split for each language."""
    for lang, found in documents.items():
        if len(set(found)) < len(found):
            raise InputError(
                f"{len(found) - len(set(found))} reports of the language {lang} have the id of another report",
                key="data.root",
                fix="remove repeated reports, so that each id occurs once per language",
            )
    distinct = {tuple(found) for found in documents.values()}
    if len(distinct) == 1:
        return {lang: split_rows(len(found)) for lang, found in documents.items()}
    union = sorted({document for found in documents.values() for document in found})
    of = {union[number]: split for split, numbers in split_rows(len(union)).items() for number in numbers}
    return {
        lang: {
            split: [number for number, document in enumerate(found) if of[document] == split]
            for split in ("train", "validation", "test")
        }
        for lang, found in documents.items()
    }


def _sources(root: str) -> dict[str, list[tuple[File, str]]]:
    """Return for each language its JSON file, or its texts with the paths of their summaries."""
    places = folders(root, *CORPORA[_NAME].folders)
    found: dict[str, list[tuple[File, str]]] = {}
    looked: list[Names] = []
    for lang in LANGUAGES:
        names = _names(lang)
        looked += names
        pairs = [(file, _summary_of(file)) for file in look(places, names)]
        if pairs:
            found[lang] = pairs
    if not found:
        raise absent(_NAME, "train", places, looked)
    if missing := [lang for lang in LANGUAGES if lang not in found]:
        raise absent(
            f"{_NAME} ({', '.join(missing)})", "train", places, [n for lang in missing for n in _names(lang)]
        )
    return found


def _names(lang: str) -> list[Names]:
    stems = (f"multiclinsum_gs_{lang}", f"multiclinsum_{lang}", f"*_{lang}")
    texts = (f"*_{lang}/fulltext/*", f"*_{lang}/*/fulltext/*")
    return [
        *(Names(stem, ("json", "jsonl", "json.gz", "jsonl.gz")) for stem in stems),
        *(Names(stem, ("txt",), "text") for stem in texts),
    ]


def _summary_of(file: File) -> str:
    if file.format != "text":
        return ""
    path = PurePosixPath(file.path.rpartition("/fulltext/")[2])
    return f"{file.path.rpartition('/fulltext/')[0]}/summaries/{path.stem}_sum.txt"


def _reports(lang: str, pairs: list[tuple[File, str]]) -> Iterator[tuple[str, CorpusRow]]:
    """Yield (id of the report, row) for a language."""
    for file, summary in pairs:
        if summary:
            yield _number(file.path), CorpusRow(file.name, 1, _text_row(file.path, summary))
            continue
        for number, each in enumerate(rows_of([file]), 1):
            own = (
                None if isinstance(each.row, BadRowError) else each.row.get("id", each.row.get("document_id"))
            )
            yield (str(number) if own is None else _without_language(str(own), lang)), each


def _without_language(document: str, lang: str) -> str:
    return re.sub(rf"(^|[_-]){lang}(?=[_-]|$)", r"\1", document)


def _number(path: str) -> str:
    stem = PurePosixPath(path).stem
    found = re.search(r"(\d+)$", stem)
    return found[1] if found else stem


def _text_row(path: str, summary: str) -> dict[str, Any] | BadRowError:
    try:
        return {"input": _whole(path), "output": _whole(summary)}
    except UnicodeDecodeError:
        return BadRowError("not UTF-8")
    except (InputError, OSError):
        return BadRowError("the summary of this report is missing")


def _whole(path: str) -> str:
    with files.open_binary(path) as stream:
        return stream.read().decode("utf-8-sig")


def _record(row: Mapping[str, Any], name: str, split: str) -> dict[str, Any]:
    source, label = text(row, "input"), text(row, "output", "label", "summary")
    if split == "test":
        return {"id": name, "input": source, "label": label}
    rationale = {"rationale": row["rationale"]} if row.get("rationale") is not None else {}
    return {"id": name, "input": source[:INPUT_CHARACTERS], "label": label[:OUTPUT_CHARACTERS], **rationale}
