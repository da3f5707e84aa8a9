"""Rules for file names: which files of a folder are data, and which split a name means.

`docs/data.md` explains both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain

from medray.data.files.remote import shown
from medray.errors import InputError

_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "heldout", "holdout"), "test"),
}
# Words that mean a split only if there is no clearer word: tr is a language too.
_PERHAPS = {
    "tr": "train",
    **dict.fromkeys(("va", "vl"), "validation"),
    **dict.fromkeys(("te", "unseen", "blind", "gold"), "test"),
}
_HELD_OUT = re.compile(r"(held|hold)[ _.-]?out", re.IGNORECASE)
_ENDS = ("", "set", "split", "data")  # "trainset", "TestData"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Files that accompany data: descriptions, licences, notes of writers (Spark, datasets, medray's own import), checksums.
_NOT_DATA = re.compile(
    r"[._].*|readme.*|(licen[cs]es?|citation|changelog|notice|croissant|codemeta|datapackage)([.-].*)?"
    r"|dataset_(info|infos|dict)\.json|state\.json|import\.json|rejects\.jsonl"
    r"|.*\.(crc|md5|sha1|sha256|sha512)|(md5|sha\d+)sums?(\.txt)?|checksums?(\..*)?",
    re.IGNORECASE,
)
_SHOWN = 3


def is_data(path: str) -> bool:
    """Return whether a file found in a folder or by a glob may be data, judging by its name.

    A file that the user names directly is always read.
    """
    return not _NOT_DATA.fullmatch(path.rstrip("/").rsplit("/", 1)[-1])


def split_of(path: str) -> str | None:
    """Return the split (train, validation or test) in the name of a file, else in the nearest folder that names a
    split.
    """
    parts = [
        [word.lower() for word in _WORD.findall(_HELD_OUT.sub(" heldout ", part))]
        for part in reversed(path.split("/"))
    ]
    for word in chain(*parts):
        for end in _ENDS:
            if word.endswith(end) and (found := _SPLIT_OF.get(word.removesuffix(end))):
                return found
    return next((_PERHAPS[word] for word in chain(*parts) if word in _PERHAPS), None)


def check_one_split(found: Sequence[str], path: str, key: str) -> None:
    """Raise InputError if the files of one folder or glob name different splits, or if only some of them name one.

    found: absolute paths or URLs. key: data.train or data.validation.
    """
    if len(found) < 2:
        return
    folder = _folder(found)
    groups: dict[str | None, list[str]] = {}
    for each in found:
        name = each[len(folder) :].lstrip("/")
        groups.setdefault(split_of(name), []).append(name)
    wanted = key.rpartition(".")[2]
    if len(groups) == 1:
        return
    listed = "; ".join(
        f"{split or 'no split'}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for split, names in groups.items()
    )
    patterns = {
        split: _pattern(
            shown(folder), names, [n for other, ns in groups.items() if other != split for n in ns]
        )
        for split, names in groups.items()
    }
    by_key = {f"data.{split}": patterns[split] for split in ("train", "validation") if split in groups}
    if wanted not in groups and None in groups:
        by_key = {key: patterns[None], **by_key}
    written = ", ".join(f"{each}: {pattern}" for each, pattern in by_key.items())
    several = len(groups) > 2 or None not in groups
    raise InputError(
        f"the names of these files say that they belong to several splits ({listed})"
        if several
        else f"some of these files have a split in their names, others have none ({listed})",
        key=key,
        value=shown(path),
        fix=f"name the files of each split: {written}; if all of them belong to {key}, "
        f"write them as a list: [{', '.join(pattern.strip('[]') for pattern in patterns.values())}]",
    )


def _folder(found: Sequence[str]) -> str:
    """Return the folder or URL that contains all files."""
    scheme = found[0].partition("://")[0] + "://" if "://" in found[0] else ""
    return scheme + os.path.commonpath([os.path.dirname(each.removeprefix(scheme)) for each in found])


def _pattern(folder: str, names: Sequence[str], others: Sequence[str]) -> str:
    """Return a glob that matches these files and none of the others, or else a list of them."""
    first, last = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    pattern = f"{folder}/{first[:same]}*"
    if len(names) == 1:
        return f"{folder}/{names[0]}"
    if "/" in last[same:] or any(name.startswith(first[:same]) for name in others):
        return f"[{', '.join(f'{folder}/{name}' for name in names)}]"
    return pattern
