"""The files of a teacher's completions, and the completion of each row of a split.

Completion i of a split belongs to row i, so none may be missing: there must be as many completions as rows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from medray.data import files
from medray.data.corpora.locate import WORDS, File, Names, beside, listed, look, natural
from medray.data.corpora.published import CorpusRow
from medray.data.files.formats import compression_of
from medray.data.readers import compressed
from medray.errors import InputError

ROWS_PER_FILE = {"cqa": 1000, "svamp": 500, "asdiv": 1000, "esnli": 5500, "anli1": 5000}
_AGAIN = "create the file with the teacher again, or remove it"
_ENDINGS = ("json", "json.gz")


def names(corpus: str, split: str, teacher: str) -> list[Names]:
    """Return the possible file names of a teacher's completions."""
    if teacher == "gpt":
        return [Names(f"gpt-neox/{corpus}/{word}", _ENDINGS) for word in WORDS[split]]
    return [Names(f"llm/{word}_CoT_*", _ENDINGS) for word in WORDS[split]]


def find(corpus: str, folder: str, split: str, teacher: str) -> list[File]:
    """Return the files of a teacher (palm, gpt) in order; [] if there are none.

    folder: the folder of the corpus's own files.
    """
    return look(_places(folder, teacher), names(corpus, split, teacher))


def absent(corpus: str, folder: str, split: str, teacher: str) -> InputError:
    """Return the error for missing completions of a teacher, with all file names that were tried."""
    looked = listed(names(corpus, split, teacher))
    return InputError(
        f"no completions of {teacher} for the {split} split of {corpus} were found; looked for {looked}",
        file=", ".join(map(files.shown, _places(folder, teacher))),
        key="method.teacher",
        value=teacher,
        fix="put the published files there, or train without them (method.mode: standard and "
        "method.label_source: gt)",
    )


def attach(
    rows: Iterator[CorpusRow], found: Sequence[File], corpus: str, split: str, teacher: str
) -> Iterator[tuple[CorpusRow, str]]:
    """Yield each row with its completion. Raises InputError if the numbers of rows and completions differ."""
    rest = _completions(found)
    count = 0
    for count, row in enumerate(rows, 1):
        completion = next(rest, None)
        if completion is None:
            total = count + sum(1 for _ in rows)
            raise _mismatch(found, corpus, split, f"{count - 1} completions", f"{total} rows")
        yield row, completion
    if more := sum(1 for _ in rest):
        raise _mismatch(found, corpus, split, f"{count + more} completions", f"{count} rows")
    wanted = -(-count // ROWS_PER_FILE[corpus])
    if teacher == "palm" and len(found) != wanted:
        what = f"{wanted} files of {ROWS_PER_FILE[corpus]} completions for {count} rows"
        raise _mismatch(found, corpus, split, f"{len(found)} files", what)


def _places(folder: str, teacher: str) -> list[str]:
    return [folder, beside(folder)] if teacher == "gpt" else [folder]


def _mismatch(found: Sequence[File], corpus: str, split: str, there: str, wanted: str) -> InputError:
    return InputError(
        f"the teacher has {there}, the {split} split of {corpus} has {wanted}",
        file=", ".join(file.name for file in (found if len(found) < 4 else (found[0], found[-1]))),
        fix="use rows and completions of the same publication, and check that no file is missing",
    )


def _completions(found: Sequence[File]) -> Iterator[str]:
    _check_numbers(found)
    for file in found:
        yield from _texts(file)


def _check_numbers(found: Sequence[File]) -> None:
    """Raise InputError for a gap in the file numbers, which start at 0: it would shift all later completions."""
    numbers = [re.search(r"_CoT_(\d+)\.", os.path.basename(file.path)) for file in found]
    given = [int(number[1]) for number in numbers if number]
    if given and given != list(range(len(given))):
        missing = next(number for number in range(max(given) + 1) if number not in given)
        raise InputError(
            f"the teacher's file number {missing} is missing; {len(given)} files up to number {max(given)} exist",
            file=sorted((file.name for file in found), key=natural)[0],
            fix="add the missing file",
        )


def _texts(file: File) -> list[str]:
    with files.open_binary(file.path) as stream:
        compression = compression_of(file.path)
        data = (stream if compression is None else compressed.opened(stream, compression, file.name)).read()
    try:
        texts: Any = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8 at byte {error.start}", file=file.name, fix=_AGAIN) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"the file is not valid JSON at line {error.lineno}", file=file.name, fix=_AGAIN
        ) from None
    if not isinstance(texts, list):
        raise InputError(
            f"the file contains a JSON {type(texts).__name__}, not a list of completions",
            file=file.name,
            fix=_AGAIN,
        )
    for number, completion in enumerate(texts, 1):
        if not isinstance(completion, str):
            raise InputError(
                f"completion {number} is a {type(completion).__name__}, not text",
                file=file.name,
                fix="write an empty text if the teacher gave no completion; null and objects are not allowed",
            )
    return texts
