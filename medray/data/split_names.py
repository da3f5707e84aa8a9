"""Which files of a folder are data, and which split their names say. `docs/data.md` states both rules for users."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from medray.data.remote import shown
from medray.errors import InputError

_SPLITS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "heldout", "holdout"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_ENDS = ("", "set", "split", "data")  # "trainset", "TestData"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What stands beside data: descriptions, licences, notes of writers (Spark, datasets, medray's own import), checksums.
_NOT_DATA = re.compile(
    r"[._].*|readme.*|(licen[cs]es?|citation|changelog|notice|croissant|codemeta|datapackage)([.-].*)?"
    r"|dataset_(info|infos|dict)\.json|state\.json|import\.json|rejects\.jsonl"
    r"|.*\.(crc|md5|sha1|sha256|sha512)|(md5|sha\d+)sums?(\.txt)?|checksums?(\..*)?",
    re.IGNORECASE,
)
_SHOWN = 3


def is_data(path: str) -> bool:
    """Whether a file of a folder or glob may be data, by its name. A file that is named itself always is."""
    return not _NOT_DATA.fullmatch(path.rstrip("/").rsplit("/", 1)[-1])


def split_of(path: str) -> str | None:
    """train, validation or test, whichever a path says: in its name, else in the nearest folder that says one."""
    for part in reversed(path.split("/")):
        for word in _WORD.findall(part):
            for end in _ENDS:
                if word.lower().endswith(end) and (found := _SPLIT_OF.get(word.lower().removesuffix(end))):
                    return found
    return None


def check_one_split(found: Sequence[str], path: str, key: str) -> None:
    """Raises InputError where the files of one folder or glob are of several splits by their names.

    found: absolute paths or URLs. key: data.train or data.validation. Files that say no split are of the one asked for.
    """
    if len(found) < 2:
        return
    folder = _folder(found)
    groups: dict[str | None, list[str]] = {}
    for each in found:
        name = each[len(folder) :].lstrip("/")
        groups.setdefault(split_of(name), []).append(name)
    wanted = key.rpartition(".")[2]
    if len(groups) == 1 or set(groups) == {None, wanted}:
        return
    listed = "; ".join(
        f"{split or 'no split'}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for split, names in groups.items()
    )
    written = ", ".join(
        f"data.{split}: "
        + _pattern(shown(folder), groups[split], [n for o, ns in groups.items() if o != split for n in ns])
        for split in ("train", "validation")
        if split in groups
    )
    raise InputError(
        f"its files are of several splits by their names ({listed})",
        key=key,
        value=shown(path),
        mend=f"name the files of each split: {written or f'{key}: [file, file]'}; "
        "a list of files or patterns takes them whatever their names say",
    )


def _folder(found: Sequence[str]) -> str:
    """The folder or URL that all are in."""
    scheme = found[0].partition("://")[0] + "://" if "://" in found[0] else ""
    return scheme + os.path.commonpath([os.path.dirname(each.removeprefix(scheme)) for each in found])


def _pattern(folder: str, names: Sequence[str], others: Sequence[str]) -> str:
    """A glob that matches these files and none of the others; else their list."""
    first, last = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    pattern = f"{folder}/{first[:same]}*"
    if len(names) == 1:
        return f"{folder}/{names[0]}"
    if "/" in last[same:] or any(name.startswith(first[:same]) for name in others):
        return f"[{', '.join(f'{folder}/{name}' for name in names)}]"
    return pattern
