"""The documents of `medray icl`: texts with gold answers, read by the same readers as the records of a training run."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medray.config.data import ExtractionConfig
from medray.config.icl import IclFile
from medray.data import corpora
from medray.data.encode.render import extraction_answer, extraction_prompt
from medray.data.index.row_index import records
from medray.data.index.sources import extraction_of, sources
from medray.data.index.text_overlap import normalised
from medray.data.records import BadRowError, Extraction
from medray.errors import InputError

Item = tuple[str, ...]  # one text, or the two texts of a relation


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text with its gold answer. group: its source document or patient. answer: the distinct items, in order."""

    id: str
    group: str
    text: str
    answer: tuple[Item, ...]

    @property
    def text_hash(self) -> str:
        """Return a hash that is equal for texts that differ in case and blanks only."""
        return hashlib.sha256(normalised(self.text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The documents of a run.

    extraction: what an answer contains. statement: the task in words. bad_rows: number of rows that cannot be used.
    repeated: number of training documents that were left out, because an earlier one has the same id.
    """

    train: tuple[Document, ...]
    test: tuple[Document, ...]
    extraction: ExtractionConfig
    statement: str
    bad_rows: int
    repeated: int


def load(file: IclFile) -> Documents:
    """Read the training and the test documents.

    Raises InputError if a source is missing, has no documents with entities, or has more bad rows than
    `data.max_rejects` accepts, and if two test documents have the same id.
    """
    config = file.as_config()
    extraction = extraction_of(config)
    bad: Counter[str] = Counter()
    train, repeated = _distinct(_read(file, "train", extraction, bad))
    if file.data.held_out is not None:
        train, test = _held_out(train, file.data.held_out, file.run.seed)
    else:
        test, again = _distinct(_read(file, _test_split(file), extraction, bad))
        if again:
            raise InputError(
                f"{again} test documents have the id of another one",
                key="data.test",
                fix="give every document its own id",
            )
    return Documents(
        train=train,
        test=test,
        extraction=extraction,
        statement=file.icl.statement or _statement(file, extraction),
        bad_rows=bad.total(),
        repeated=repeated,
    )


def as_json(answer: Iterable[Item]) -> str:
    """Return an answer as the text that a model is asked to write: a JSON list of texts, or of pairs."""
    return json.dumps([item[0] if len(item) == 1 else list(item) for item in answer], ensure_ascii=False)


def _test_split(file: IclFile) -> str:
    name = file.data.dataset
    if name is None:
        return "validation"
    if file.data.test_split is not None:
        corpora.find(name, file.data.root or ".", file.data.test_split)  # its error names the files
        return file.data.test_split
    there = corpora.splits(name, file.data.root or ".")
    found = next((split for split in ("test", "validation") if split in there), None)
    if found is None:
        raise InputError(
            "this corpus has no files of a test or validation split",
            key="data.root",
            value=file.data.root,
            fix="add these files to the folder, or set data.held_out: 0.1",
        )
    return found


def _read(file: IclFile, split: str, extraction: ExtractionConfig, bad: Counter[str]) -> list[Document]:
    found, rejected, others = [], 0, 0
    for source in sources(file.as_config(), split):
        for _, _, _, record in records(source):
            if isinstance(record, BadRowError):
                rejected += 1
            elif isinstance(record, Extraction):
                found.append(_document(record, extraction))
            else:
                others += 1
    key = "data.root" if file.data.dataset else "data.train" if split == "train" else "data.test"
    if others:
        raise InputError(
            f"{others} rows of the {split} split are not documents with entities",
            key=key,
            fix="use files of an extraction corpus: PubTator, BioC, CoNLL, or rows with passages and entities",
        )
    if not found:
        raise InputError(
            f"the {split} split has no usable document among {rejected} rows",
            key=key,
            fix="use files that contain documents with entities",
        )
    share = rejected / (rejected + len(found))
    if share > file.data.max_rejects:
        raise InputError(
            f"{rejected} of {rejected + len(found)} rows of the {split} split are bad",
            key="data.max_rejects",
            value=file.data.max_rejects,
            fix=f"fix the rows, or set data.max_rejects: {-(-share * 100 // 1) / 100:g}",
        )
    bad[split] += rejected
    return found


def _document(record: Extraction, extraction: ExtractionConfig) -> Document:
    items = json.loads(extraction_answer(record, extraction.answer, extraction.types))
    return Document(
        id=record.origin.id,
        group=record.origin.group,
        text=" ".join(record.passages),
        answer=tuple((item,) if isinstance(item, str) else tuple(item) for item in items),
    )


def _distinct(documents: Sequence[Document]) -> tuple[tuple[Document, ...], int]:
    """Return the first document of each id, and the number of others."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.id, document)
    return tuple(first.values()), len(documents) - len(first)


def _held_out(
    documents: Sequence[Document], share: float, seed: int
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Split documents into (train, test). Documents of one group are on one side."""
    groups = list(dict.fromkeys(document.group or document.id for document in documents))
    count = max(1, round(share * len(groups)))
    if count >= len(groups):
        raise InputError(
            f"holding out {count} of {len(groups)} groups of documents leaves none for training",
            key="data.held_out",
            value=share,
            fix="use a smaller share, or more documents",
        )
    taken = set(random.Random(seed).sample(groups, count))
    test = tuple(each for each in documents if (each.group or each.id) in taken)
    return tuple(each for each in documents if (each.group or each.id) not in taken), test


def _statement(file: IclFile, extraction: ExtractionConfig) -> str:
    if file.data.dataset is not None:
        return corpora.presets(file.data.dataset).prompts.label or ""
    return extraction_prompt(extraction.answer, extraction.types)


def run_folder(file: IclFile) -> Path:
    """Return the folder of a run."""
    return Path(file.run.storage) / file.run.name
