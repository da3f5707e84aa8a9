"""Conversion of any source to one plain file that can be read from any position: JSONL with the file and line of each
row.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from medray import storage
from medray.data import files
from medray.data.readers.json_lines import wrapped
from medray.data.records import Row
from medray.storage import StoragePath


def convert(
    paths: Sequence[tuple[str, str]],
    target: StoragePath,
    *,
    split: str = "train",
    subset: str | None = None,
    skipped: Callable[[str, int], None] | None = None,
) -> int:
    """Write the rows of (path, format) pairs, in order, to `target`. Return the number of rows, including bad ones.

    Files are named by their paths relative to the folder that they share. skipped: called with (file, number) if a
    format leaves out rows on purpose, such as MedQuAD's pairs without an answer.
    """
    from medray.data.readers import read

    def rows() -> Iterator[tuple[str, int, Row]]:
        for (path, kind), name in zip(paths, _names([path for path, _ in paths]), strict=True):
            reading = read(path, kind, split=split, subset=subset)
            for found in reading:
                yield name, found.line, found.row
            if skipped is not None and reading.skipped:
                skipped(name, reading.skipped)

    return write_converted(rows(), target)


def write_converted(items: Iterable[tuple[str, int, Row]], target: StoragePath) -> int:
    """Write (file name, line, row) items to `target`, completely or not at all, readable only by its owner.

    Returns the number of rows.
    """
    if not isinstance(target, Path):
        folder = storage.temporary_folder()
        count = write_converted(items, folder / "rows")
        storage.put_file(folder / "rows", target)
        return count
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    count = 0
    try:
        with open(handle, "wb", buffering=1 << 20) as stream:
            for item in items:
                stream.write(wrapped(*item))
                count += 1
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return count


def _names(paths: list[str]) -> list[str]:
    parts = [files.shown(path).split("/") for path in paths]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]
