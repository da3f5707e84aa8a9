"""The files of a prediction job: one JSON-lines file per part, written whole or not at all, and the merged file.

A part file ends with a line that holds the number of its rows and the SHA-256 of the lines before it. A file that does
not match it is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from medray import storage
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath

PARTS, PREDICTIONS = "parts", "predictions.jsonl"
LARGEST_PART = 1 << 30  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Numbers of rows. cut: prompts that lost text to a limit. unfinished: answers that ended at the length limit.

    empty: answers without text. tokens: generated tokens.
    """

    rows: int = 0
    cut: int = 0
    unfinished: int = 0
    empty: int = 0
    tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            rows=self.rows + other.rows,
            cut=self.cut + other.cut,
            unfinished=self.unfinished + other.unfinished,
            empty=self.empty + other.empty,
            tokens=self.tokens + other.tokens,
        )


def part_path(folder: StoragePath, number: int) -> StoragePath:
    return folder / PARTS / f"part-{number:06d}.jsonl"


def write_part(folder: StoragePath, number: int, lines: Sequence[dict[str, Any]], counts: Counts) -> None:
    """Write the predictions of a part atomically: a reader sees the whole file or none."""
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    seal = {
        "rows": counts.rows,
        "cut": counts.cut,
        "unfinished": counts.unfinished,
        "empty": counts.empty,
        "tokens": counts.tokens,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    storage.write(part_path(folder, number), body + json.dumps(seal).encode() + b"\n", durable=True)


def read_part(folder: StoragePath, number: int, rows: int) -> tuple[bytes, Counts] | None:
    """Return the lines of a finished part and its counts; None if it is missing, damaged or has another number of rows."""
    try:
        data = storage.read_bounded(part_path(folder, number), LARGEST_PART)
    except (FileNotFoundError, InputError):
        return None
    cut = data.rstrip(b"\n").rfind(b"\n") + 1
    body = data[:cut]
    try:
        seal = json.loads(data[cut:])
        counts = Counts(**{name: int(seal[name]) for name in Counts.__dataclass_fields__})
        whole = seal["sha256"] == hashlib.sha256(body).hexdigest()
    except (ValueError, KeyError, TypeError):
        return None
    return (body, counts) if whole and counts.rows == rows == body.count(b"\n") else None


def merge(folder: StoragePath, rows: Sequence[int], name: str = PREDICTIONS) -> StoragePath:
    """Join the part files to one file in the order of the input, one part in memory at a time.

    rows: number of rows of each part. Raises RunFailedError if a part is missing or damaged.
    """

    def write(stream: IO[bytes]) -> None:
        for body in bodies(folder, rows):
            stream.write(body)

    return write_whole(folder / name, write)


def bodies(folder: StoragePath, rows: Sequence[int]) -> Iterator[bytes]:
    """Yield the lines of each part file. Raises RunFailedError if a part is missing or damaged."""
    for number, count in enumerate(rows):
        found = read_part(folder, number, count)
        if found is None:
            raise RunFailedError(
                f"{part_path(folder, number)} is missing or damaged. Fix: run the same command again, which writes it again"
            )
        yield found[0]


def predictions(folder: StoragePath, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield every prediction in the order of the input."""
    for body in bodies(folder, rows):
        for line in body.splitlines():
            yield json.loads(line)


def write_whole(target: StoragePath, write: Callable[[IO[bytes]], None]) -> StoragePath:
    """Write a large file as a stream, completely or not at all."""
    staging_folder = target.parent if isinstance(target, Path) else storage.temporary_folder()
    handle, temporary = tempfile.mkstemp(dir=str(staging_folder), prefix=f".{target.name}.")
    try:
        with open(handle, "wb") as stream:
            write(stream)
        if isinstance(target, Path):
            os.replace(temporary, target)
        else:
            storage.put_file(Path(temporary), target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target
