"""The search for all published corpora in a folder, with the reason why other folders are skipped."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from medray.data import corpora, files
from medray.data.corpora.published import CORPORA
from medray.data.files.remote import place


@dataclass(frozen=True)
class Discovered:
    """The corpora that were found in a folder. `places`: corpus → its folder. `skipped`: other folder → why it is not read."""

    places: dict[str, str]
    skipped: dict[str, str]


def discover(source: str) -> Discovered:
    """Find the corpora in `source`: its folders that are named after a corpus and contain the train split.

    Each corpus is searched in its own folder only, because a "train.json" next to several folders could belong to any.
    """
    places: dict[str, str] = {}
    for name, published in CORPORA.items():
        for folder in published.folders:
            if name not in places and "train" in corpora.splits(name, f"{source}/{folder}"):
                places[name] = f"{source}/{folder}"
    used = set(places.values())
    skipped = {
        folder: _why(folder, source, places)
        for folder in _folders(source)
        if f"{source}/{folder}" not in used
    }
    return Discovered(places, skipped)


def names_of(folder: str) -> list[str]:
    """Return the corpora that may be in a folder with this name."""
    return [name for name, published in CORPORA.items() if folder in published.folders]


def _why(folder: str, source: str, places: dict[str, str]) -> str:
    names = names_of(folder)
    if not names:
        known = {each.lower(): each for published in CORPORA.values() for each in published.folders}
        near = difflib.get_close_matches(folder.lower(), known, n=1, cutoff=0.8)
        return "medray knows no corpus with a folder of this name" + (
            f"; did you mean {known[near[0]]}?" if near else ""
        )
    elsewhere = Counter(places[name] for name in names if name in places)
    if elsewhere:
        read = [name for name in names if name in places]
        other = elsewhere.most_common(1)[0][0].rpartition("/")[2]
        return f"{', '.join(read)} {'is' if len(read) == 1 else 'are'} read from {other}"
    there = {split for name in names for split in corpora.splits(name, f"{source}/{folder}")}
    only = f", only of {', '.join(sorted(there))}" if there else ""
    return f"the folder has no file of the train split of {', '.join(names)}{only}"


def _folders(source: str) -> list[str]:
    """Return the names of the folders in `source` except hidden ones; [] if a server does not list them."""
    if not files.is_remote(source):
        local = source.removeprefix("file://").removeprefix("local://")
        with os.scandir(os.path.expanduser(local)) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    at = place(source)
    try:
        found: list[dict[str, Any]] = at.filesystem.ls(at.root, detail=True)
    except Exception:  # each protocol has its own errors; many servers list nothing
        return []
    names = [
        str(each["name"]).rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory"
    ]
    return sorted(name for name in names if not name.startswith("."))
