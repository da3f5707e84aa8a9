"""Where records come from: a file, or the simulated clinic. Both can be read from any position on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medray.config.data import ColumnsConfig, DataConfig
from medray.data.readers import Row, read_file

CLINIC_COLUMNS = ColumnsConfig(input="dialogue", label="note", rationale="rationale", entities="entities")


class Source(Protocol):
    """A named sequence of rows."""

    @property
    def name(self) -> str: ...

    def read(self, start: int = 0) -> Iterator[tuple[int, Row]]:
        """(position, row) from `start` on, a position that an earlier read gave."""

    def content_hash(self) -> str:
        """Changes when any row changes."""


@dataclass(frozen=True)
class FileSource:
    path: str

    @property
    def name(self) -> str:
        return Path(self.path).name

    def read(self, start: int = 0) -> Iterator[tuple[int, Row]]:
        return read_file(Path(self.path), start)

    def content_hash(self) -> str:
        with Path(self.path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class ClinicSource:
    seed: int
    size: str
    split: str
    count: int

    @property
    def name(self) -> str:
        return f"clinic-{self.size}-{self.split}"

    def read(self, start: int = 0) -> Iterator[tuple[int, Row]]:
        from medray.data import clinic  # its tables cost a run on files nothing

        rows = clinic.rows(self.seed, self.count - start, split=self.split, size=self.size, start=start)
        return enumerate(rows, start)

    def content_hash(self) -> str:
        # The generator's own text is part of what it generates.
        folder = Path(__file__).parent
        code = b"".join(file.read_bytes() for file in sorted(folder.glob("clinic*.py")))
        return hashlib.sha256(repr(self).encode() + code).hexdigest()


def sources(data: DataConfig, split: str) -> tuple[Source, ...]:
    """The sources of `split` (train or validation) in the order that the config gives."""
    if data.dataset == "clinic":
        count = data.clinic.train_rows if split == "train" else data.clinic.validation_rows
        return (ClinicSource(data.clinic.seed, data.clinic.size, split, count),) if count else ()
    return tuple(FileSource(path) for path in getattr(data, split))


def columns(data: DataConfig) -> ColumnsConfig:
    """Which column holds what, for the config's sources."""
    return CLINIC_COLUMNS if data.dataset == "clinic" else data.columns
