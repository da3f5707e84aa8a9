"""The search for the files of a published corpus, in a folder or at a URL, and the reading of their rows."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medray.data import files
from medray.data.corpora.published import CorpusRow
from medray.data.files.remote import place, shown, unreadable
from medray.data.readers import format_of, read
from medray.errors import InputError

ROWS = ("json", "jsonl", "json.gz", "jsonl.gz", "parquet", "csv")
WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "dev", "devel"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Names:
    """The possible names of one file of a corpus: a stem, which may contain * and folders, with one of several endings.

    format: the format of files with these names; None: it follows from the ending.
    """

    stem: str
    endings: tuple[str, ...] = ROWS
    format: str | None = None


@dataclass(frozen=True)
class File:
    """A file of a corpus that was found.

    path: absolute path or URL. name: its name in messages and in rejects.jsonl. folder: the folder of the corpus that
    contains it.
    """

    path: str
    format: str
    name: str
    folder: str = ""


def split_names(*corpora: str, split: str) -> list[Names]:
    """Return the possible names of a split's files: CORPUS_train, CORPUS-train, train, and names of several files on a
    hub.

    Each spelling of the split is included.
    """
    stems = [f"{corpus}{sign}{word}" for corpus in corpora for sign in "_-" for word in WORDS[split]]
    stems += WORDS[split]
    shards = [Names(f"{folder}{word}-*", ("parquet",)) for folder in ("", "data/") for word in WORDS[split]]
    return [*(Names(stem) for stem in stems), *shards]


def folders(root: str, *names: str) -> list[str]:
    """Return the folders in which files are searched: folders named after the corpus in `root`, then `root` itself."""
    whole = root.rstrip("/") or "/"
    if "://" not in whole:
        whole = os.path.abspath(os.path.expanduser(whole))
    return [*(f"{whole}/{name}" for name in names), whole]


def beside(folder: str) -> str:
    """Return the parent folder or URL of `folder`, or `folder` itself if it has none."""
    scheme, mark, path = folder.rpartition("://")
    above = path.rpartition("/")[0]
    return f"{scheme}{mark}{above}" if above else folder


def look(places: Sequence[str], wanted: Sequence[Names]) -> list[File]:
    """Search the folders for the wanted names.

    Return the files of the first name that exists, in numerical order, or [].
    """
    for folder in places:
        for names in wanted:
            for ending in names.endings:
                found = _matches(folder, f"{names.stem}.{ending}")
                if found:
                    return [
                        File(path, names.format or format_of(path), _short(path, folder), folder)
                        for path in found
                    ]
    return []


class AbsentError(InputError):
    """The error if no file of a split was found."""


def absent(corpus: str, split: str, places: Sequence[str], wanted: Sequence[Names]) -> AbsentError:
    """Return the error for a split without files, with all names that were tried."""
    return AbsentError(
        f"no file of the {split} split of {corpus} was found; looked for {listed(wanted)}",
        file=", ".join(map(shown, places)),
        key="data.root",
        fix="use the folder of the published files, and keep the names that they were published with",
    )


def listed(wanted: Sequence[Names]) -> str:
    """Return all names as text for a message; names with the same endings are joined."""
    stems: dict[tuple[str, ...], list[str]] = {}
    for names in wanted:
        stems.setdefault(names.endings, []).append(names.stem)
    return "; ".join(
        f"{', '.join(found)} ending in {' '.join(f'.{each}' for each in endings)}"
        for endings, found in stems.items()
    )


def rows_of(found: Sequence[File], dropped: Counter[str] | None = None) -> Iterator[CorpusRow]:
    """Yield all rows of the files. dropped: counter of rows that a format leaves out on purpose."""
    for file in found:
        reading = read(file.path, file.format)
        for each in reading:
            yield CorpusRow(file.name, each.line, each.row)
        if dropped is not None and reading.skipped:
            dropped["no answer"] += reading.skipped


def natural(path: str) -> list[tuple[int, str]]:
    """Return a key for sorting by the numbers in names: x_2 comes before x_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _matches(folder: str, pattern: str) -> list[str]:
    if files.is_remote(folder):
        return _remote(f"{folder}/{pattern}")
    local = re.sub(r"^(file|local)://", "", folder)
    found = glob.glob(f"{glob.escape(local)}/{pattern}")
    return sorted((path for path in found if os.path.isfile(path)), key=natural)


def _remote(url: str) -> list[str]:
    at = place(url)
    try:
        found = at.filesystem.glob(at.root) if "*" in url else [at.root] * at.filesystem.exists(at.root)
    except FileNotFoundError:
        return []
    except Exception as error:  # each protocol has its own errors
        unreadable(error, url)
    return [at.url(name) for name in sorted(found, key=natural)] if "*" in url else [url] * len(found)


def _short(path: str, folder: str) -> str:
    local = shown(re.sub(r"^(file|local)://", "", folder)).rstrip("/")
    return shown(path).removeprefix(f"{local}/")
