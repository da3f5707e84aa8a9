"""Where the files of a published corpus lie under a folder or URL, and the rows in them."""

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
    """Names that a file may have: a stem, which may hold * and folders, with one of some endings.

    format: of all of them; None: by the ending.
    """

    stem: str
    endings: tuple[str, ...] = ROWS
    format: str | None = None


@dataclass(frozen=True)
class File:
    """path: absolute, or a URL. name: as messages and rejects call it. folder: the corpus's, that it was found in."""

    path: str
    format: str
    name: str
    folder: str = ""


def split_names(*corpora: str, split: str) -> list[Names]:
    """CORPUS_train, CORPUS-train, train and the shards of a hub's copy, in all spellings of the split."""
    stems = [f"{corpus}{sign}{word}" for corpus in corpora for sign in "_-" for word in WORDS[split]]
    stems += WORDS[split]
    shards = [Names(f"{folder}{word}-*", ("parquet",)) for folder in ("", "data/") for word in WORDS[split]]
    return [*(Names(stem) for stem in stems), *shards]


def folders(root: str, *names: str) -> list[str]:
    """Where to look: folders of the corpus in `root`, then `root`."""
    whole = root.rstrip("/") or "/"
    if "://" not in whole:
        whole = os.path.abspath(os.path.expanduser(whole))
    return [*(f"{whole}/{name}" for name in names), whole]


def beside(folder: str) -> str:
    """The folder or URL that holds `folder`; `folder` where nothing does."""
    scheme, mark, path = folder.rpartition("://")
    above = path.rpartition("/")[0]
    return f"{scheme}{mark}{above}" if above else folder


def look(places: Sequence[str], wanted: Sequence[Names]) -> list[File]:
    """The files of the first name that is there, sorted by the numbers in them; [] where none is."""
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
    """No file of a split is there."""


def absent(corpus: str, split: str, places: Sequence[str], wanted: Sequence[Names]) -> AbsentError:
    """The error that names every name that was looked for."""
    return AbsentError(
        f"no file of the {split} split of {corpus} is there; looked for {listed(wanted)}",
        file=", ".join(map(shown, places)),
        key="data.root",
        fix="name the folder of the published files, under the names that they were published with",
    )


def listed(wanted: Sequence[Names]) -> str:
    """All names for a message: stems with the same endings together."""
    stems: dict[tuple[str, ...], list[str]] = {}
    for names in wanted:
        stems.setdefault(names.endings, []).append(names.stem)
    return "; ".join(
        f"{', '.join(found)} ending in {' '.join(f'.{each}' for each in endings)}"
        for endings, found in stems.items()
    )


def rows_of(found: Sequence[File], dropped: Counter[str] | None = None) -> Iterator[CorpusRow]:
    """All rows of some files. dropped: told what a format leaves out that is no mistake."""
    for file in found:
        reading = read(file.path, file.format)
        for each in reading:
            yield CorpusRow(file.name, each.line, each.row)
        if dropped is not None and reading.skipped:
            dropped["no answer"] += reading.skipped


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts x_2 before x_10."""
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
    except Exception as error:  # every protocol has its own errors
        unreadable(error, url)
    return [at.url(name) for name in sorted(found, key=natural)] if "*" in url else [url] * len(found)


def _short(path: str, folder: str) -> str:
    local = shown(re.sub(r"^(file|local)://", "", folder)).rstrip("/")
    return shown(path).removeprefix(f"{local}/")
