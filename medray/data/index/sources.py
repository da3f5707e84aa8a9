"""The sources of records: data files, published corpora by name, and the simulated clinic.

A `positional` source can be read from any of its positions. Other sources (compressed files, XML, corpora whose rows
depend on each other) are converted once into a plain file next to the shards and read from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Protocol

from medray.config import Config
from medray.config.columns import ColumnsConfig
from medray.config.data import DataConfig, ExtractionConfig, SourceConfig
from medray.data import corpora, files, readers
from medray.data.files.formats import is_saved_dataset
from medray.data.files.split_names import check_one_split
from medray.data.printable import type_names
from medray.data.readers import Found, huggingface
from medray.errors import InputError
from medray.storage import StoragePath

CLINIC_COLUMNS = ColumnsConfig(input="dialogue", label="note", rationale="rationale", entities="entities")
CLINIC_RANGE_ROWS = 8192  # rows of the clinic per task

Range = tuple[int, int | None]


class Source(Protocol):
    """The interface of a source: a named sequence of rows. corpus: number of the source's entry in the config."""

    @property
    def name(self) -> str: ...
    @property
    def corpus(self) -> int: ...
    @property
    def form(self) -> str: ...
    @property
    def columns(self) -> ColumnsConfig: ...
    @property
    def positional(self) -> bool: ...

    def ranges(self) -> list[Range]:
        """Return parts that can be read independently. Together, in order, they are the whole source."""

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Found]:
        """Yield rows from `start` on. `start` is a position from an earlier read or from `ranges`."""

    def stamp(self) -> str:
        """Return a value that changes whenever the content changes, without reading the source; "" if that is unknown."""

    def content_hash(self) -> str:
        """Return a hash of the content, which changes when any row changes."""

    def convert(self, target: StoragePath) -> None:
        """Write the same rows into a plain file at `target`."""

    def plain_at(self, target: StoragePath) -> Source:
        """Return a source with the same rows that reads the plain file written by `convert`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """The source that reads one file, or one split of a Hugging Face data set (with its name or folder as `path`)."""

    path: str
    format: str
    name: str = ""
    corpus: int = 0
    form: str = "auto"
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    split: str = "train"
    subset: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or PurePosixPath(files.shown(self.path)).name)

    @property
    def positional(self) -> bool:
        return readers.positional(self.path, self.format)

    def ranges(self) -> list[Range]:
        return readers.ranges(self.path, self.format)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Found]:
        return readers.read(self.path, self.format, start, stop, **self._split)

    def stamp(self) -> str:
        return "" if self._on_hub else files.stamp(self.path)

    def content_hash(self) -> str:
        if self._on_hub:
            return huggingface.fingerprint(self.path, **self._split)
        return files.content_hash(self.path)

    @property
    def _split(self) -> dict[str, Any]:
        return {"split": self.split, "subset": self.subset} if self.format == "huggingface" else {}

    @property
    def _on_hub(self) -> bool:
        return self.format == "huggingface" and not is_saved_dataset(self.path)

    def convert(self, target: StoragePath) -> None:
        readers.convert([(self.path, self.format)], target, **self._split)

    def plain_at(self, target: StoragePath) -> FileSource:
        return replace(self, path=str(target), format="converted")


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSource:
    """The source that reads one split of a published corpus from the files in `root`."""

    corpus_name: str
    root: str
    split: str
    options: corpora.CorpusOptions
    columns: ColumnsConfig
    form: str
    corpus: int = 0
    positional: bool = False

    @property
    def name(self) -> str:
        return f"{self.corpus_name}-{self.split}"

    def _files(self) -> Sequence[str]:
        return corpora.find(self.corpus_name, self.root, self.split)

    def ranges(self) -> list[Range]:
        return [(0, None)]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Found]:
        rows = corpora.rows(self.corpus_name, self.root, self.split, self.options)
        for number, (file, line, row) in enumerate(rows):
            if number >= start:
                yield Found(number, line, row, file)

    def stamp(self) -> str:
        return " ".join([repr(self.options), *(files.stamp(path) for path in self._files())])

    def content_hash(self) -> str:
        parts = [repr(self.options), *(files.content_hash(path) for path in self._files())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def convert(self, target: StoragePath) -> None:
        rows = corpora.rows(self.corpus_name, self.root, self.split, self.options)
        readers.write_converted(rows, target)

    def plain_at(self, target: StoragePath) -> FileSource:
        return FileSource(
            path=str(target),
            format="converted",
            name=self.name,
            corpus=self.corpus,
            form=self.form,
            columns=self.columns,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClinicSource:
    seed: int
    size: str
    split: str
    count: int
    corpus: int = 0
    form: str = "columns"
    columns: ColumnsConfig = CLINIC_COLUMNS
    positional: bool = True

    @property
    def name(self) -> str:
        return f"clinic-{self.size}-{self.split}"

    def ranges(self) -> list[Range]:
        starts = range(0, self.count, CLINIC_RANGE_ROWS)
        return [(start, min(start + CLINIC_RANGE_ROWS, self.count)) for start in starts]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Found]:
        from medray.clinic import (
            consultations,  # imported here, so that a run on files does not load its tables
        )

        rows = consultations.rows(
            self.seed, (stop or self.count) - start, split=self.split, size=self.size, start=start
        )
        return (Found(number, number + 1, row) for number, row in enumerate(rows, start))

    def stamp(self) -> str:
        return self.content_hash()

    def content_hash(self) -> str:
        from medray.clinic.consultations import REVISION

        return hashlib.sha256(f"{self!r} revision {REVISION}".encode()).hexdigest()

    def convert(self, target: StoragePath) -> None:
        raise NotImplementedError("the clinic can be read from any row on, without conversion")

    def plain_at(self, target: StoragePath) -> ClinicSource:
        return self


def sources(config: Config, split: str, *, eos_token: str = "</s>") -> tuple[Source, ...]:
    """Return the sources of `split` (train or validation) in the order of the config; () if it has none.

    No source is opened. Raises InputError if a source does not exist.
    """
    data = config.data
    if data.dataset == "clinic":
        count = data.clinic.train_rows if split == "train" else data.clinic.validation_rows
        return (
            (ClinicSource(seed=data.clinic.seed, size=data.clinic.size, split=split, count=count),)
            if count
            else ()
        )
    if data.dataset is not None:
        return _published(config, data.dataset, split, eos_token)
    found = [
        source
        for number, entry in enumerate(getattr(data, split))
        for source in _files_of(entry, number, data, f"data.{split}")
    ]
    return tuple(_told_apart(found))


def check_sources(config: Config) -> None:
    """Raise InputError if a source, a file of ids or a list of benchmarks is missing, empty, or of an unknown format."""
    for split in ("train", "validation"):
        sources(config, split)
    if config.data.split.validation_ids is not None:
        files.expand(config.data.split.validation_ids, key="data.split.validation_ids")
    for path in config.data.decontaminate:
        for file in files.expand(path, key="data.decontaminate"):
            _format(file, "data.decontaminate")


def extraction_of(config: Config) -> ExtractionConfig:
    """Return which answer a model must give for documents with entities: that of the published corpus or of the config."""
    data = config.data
    if data.dataset in (None, "clinic") or data.extraction != ExtractionConfig():
        return data.extraction
    return corpora.presets(data.dataset).extraction


def _published(config: Config, name: str, split: str, eos_token: str) -> tuple[Source, ...]:
    data, method = config.data, config.method
    root = data.root or "."
    if split not in corpora.splits(name, root):
        if split == "train":
            corpora.find(name, root, split)  # its error names the files that were tried
        return ()
    presets = corpora.presets(name)
    options = corpora.CorpusOptions(
        label_source=method.label_source if split == "train" else "gt",
        teacher=method.teacher,
        pair_join=data.pair_join,
        eos_token=eos_token,
    )
    form = "taught" if options.label_source == "llm" else presets.form
    return (
        CorpusSource(
            corpus_name=name, root=root, split=split, options=options, columns=presets.columns, form=form
        ),
    )


def _files_of(entry: SourceConfig, number: int, data: DataConfig, key: str) -> Iterator[FileSource]:
    columns = entry.columns or data.columns
    _check_named_split(entry, key)
    if entry.format == "huggingface" and "://" not in entry.path and not os.path.exists(entry.path):
        yield FileSource(
            path=entry.path,
            format="huggingface",
            name="",
            corpus=number,
            form=entry.form,
            columns=columns,
            split=entry.split,
            subset=entry.subset,
        )
        return
    found = files.expand(entry.path, key=key)
    check_one_split(found, entry.path, key)
    for path in found:
        format_ = _format(path, key) if entry.format == "auto" else entry.format
        yield FileSource(
            path=path,
            format=format_,
            name="",
            corpus=number,
            form=entry.form,
            columns=columns,
            split=entry.split,
            subset=entry.subset,
        )


def _check_named_split(entry: SourceConfig, key: str) -> None:
    """Raise InputError for a validation entry without a split: the default, train, would read the training rows again."""
    saved = "://" not in entry.path and files.saved_splits(entry.path)
    on_hub = entry.format == "huggingface" and "://" not in entry.path and not os.path.exists(entry.path)
    if key != "data.validation" or "split" in entry.model_fields_set or not (saved or on_hub):
        return
    there = type_names(saved) if saved else None
    raise InputError(
        "a Hugging Face data set needs its split here: without it, validation would read the training split",
        key=key,
        value=files.shown(entry.path),
        fix=f"set {key}: {{path: …, split: validation}}" + (f"; it has {there}" if there else ""),
    )


def _format(path: str, key: str) -> str:
    try:
        return readers.format_of(path)
    except InputError as error:
        raise InputError(error.what, key=key, value=error.file, fix=error.fix) from None


def _told_apart(found: Sequence[FileSource]) -> Iterator[FileSource]:
    """Yield the files, with unique names: files with the same name get their folder's name too, which is part of row ids."""
    names = [source.name for source in found]
    for source in found:
        if names.count(source.name) > 1 and source.format != "huggingface":
            path = PurePosixPath(files.shown(source.path))
            yield replace(source, name=f"{path.parent.name}/{path.name}")
        else:
            yield source
