"""The index of one range of a source: which of its rows are usable records, why others are not, and hashes of each row."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from medray.config.data import ExtractionConfig
from medray.config.method import MethodConfig
from medray.config.method_specs import MethodSpec, spec_of
from medray.data.encode.render import EMPTY_LIST, extraction_answer
from medray.data.index.sources import FileSource, Source
from medray.data.index.text_overlap import Benchmarks, bytes_hash, question_and_answer, same_text, text_hash
from medray.data.printable import column_names, nearest_name
from medray.data.readers import RowReader
from medray.data.readers.sniff import what_is_wrong
from medray.data.records import BadRowError, Distill, Extraction, Preference, Record, TwoStep, UselessRowError
from medray.data.row_text import is_there
from medray.data.schemas import form_of, parse
from medray.errors import InputError

_NO_USUAL_KEY = (
    "its keys may be text of a record, which medray never shows",
    "write one JSON object per row, with column names as keys; if the keys are column names, use one of them here",
)
_NO_HEADER = (
    "its first line does not seem to be a header",
    "write the column names in the first line of the file; if they are there, use one of them here",
)
_NO_USUAL_COLUMN = (
    "the names may be numbers, or text of a record",
    "use one of its columns here, or write the table again with named columns",
)
# Format of a file without a usual column name → (what may be wrong, fix).
_NO_USUAL_NAME = {
    **dict.fromkeys(("csv", "tsv", "tsv_quoted"), _NO_HEADER),
    **dict.fromkeys(("parquet", "huggingface"), _NO_USUAL_COLUMN),
}
_MOST_COLUMNS, MOST_TYPES = 200, 10_000  # upper limits of the names that are kept
MEASURED_AT_ONCE = 256  # rows that are tokenized together


@dataclass(frozen=True)
class Chunk:
    """The rows of one future shard: `raw_rows` rows that begin at `position` in the source.

    first: number of the first of them within the source.
    """

    position: int
    first: int
    raw_rows: int


@dataclass(kw_only=True, slots=True)
class RangeIndex:
    """The index of one range of a source: which rows it has, and hashes of them.

    Arrays have one entry per raw row, which is 0 if the row is not a usable record.

    ids, inputs, pairs, groups: 64-bit hashes of the id, of the normalised input, of input and answer together, and of
    the group (of the input if there is no group). labels: hashes of the text to be written, 0 if that is empty or an
    empty list. contaminated: whether the row shares words with a benchmark. types_seen: types of the entities or
    relations, whichever are in the answer. left_out: the reason of each well-formed row that teaches nothing.
    too_long: whether data.drop_longer_than drops the row.
    """

    chunks: list[Chunk]
    rejects: list[dict[str, Any]]
    lines: int
    good: np.ndarray
    ids: np.ndarray
    inputs: np.ndarray
    pairs: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    contaminated: np.ndarray
    too_long: np.ndarray
    with_rationale: np.ndarray
    with_entities: np.ndarray
    columns_seen: list[str] = field(default_factory=list)
    types_seen: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return the index as bytes. Tasks send it to the pipeline in this form, without pickle."""
        plain = {
            "chunks": [[chunk.position, chunk.first, chunk.raw_rows] for chunk in self.chunks],
            "rejects": self.rejects,
            "lines": self.lines,
            "columns_seen": self.columns_seen,
            "types_seen": self.types_seen,
            "left_out": self.left_out,
        }
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays: dict[str, Any] = {
            name: value for name, value in values.items() if isinstance(value, np.ndarray)
        }
        stream = io.BytesIO()
        np.savez(stream, plain=np.frombuffer(json.dumps(plain).encode(), np.uint8), **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> RangeIndex:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            plain = json.loads(arrays["plain"].tobytes())
            chunks = [Chunk(*chunk) for chunk in plain.pop("chunks")]
            return cls(
                chunks=chunks, **plain, **{name: arrays[name] for name in arrays.files if name != "plain"}
            )


def records(
    source: Source, start: int = 0, stop: int | None = None, first: int = 0
) -> Generator[tuple[int, int, str | None, Record | BadRowError], None, None]:
    """Yield (position, line, file, record) for the rows of a source from `start` on; a bad row yields its error as the
    record.
    """
    reading = source.read(start, stop)
    try:
        for number, found in enumerate(reading, first):
            record: Record | BadRowError
            if isinstance(found.row, BadRowError):
                record = found.row
            else:
                try:
                    record = parse(
                        found.row, source.columns, form=source.form, source=source.name, number=number
                    )
                except BadRowError as reason:
                    record = reason
            yield found.position, found.line, found.file, record
    finally:
        if isinstance(reading, RowReader):  # a caller that stops early would leave the file open
            reading.close()


def index_range(
    source: Source,
    start: int,
    stop: int | None,
    shard_rows: int,
    benchmarks: Benchmarks | None = None,
    extraction: ExtractionConfig = ExtractionConfig(),  # noqa: B008
    method: MethodSpec | None = None,
    long_rows: Callable[[Sequence[Record]], np.ndarray] | None = None,
) -> RangeIndex:
    """Index the rows of a source from `start` to `stop`. Row numbers and lines count from the start of the range.

    extraction: the kind of answer that documents with entities have. method: decides which fields a row needs, and
    when two rows are the same; None: the default method. long_rows: says which of some records are too long; None: none.
    """
    method = method or spec_of(MethodConfig())
    chunks: list[Chunk] = []
    rejects: list[dict[str, Any]] = []
    left_out: list[str] = []
    rows: list[tuple[bool, int, int, int, int, int, bool, bool, bool]] = []
    seen: set[str] = set()
    types: set[str] = set()
    waiting: list[tuple[int, Record]] = []  # rows whose length is not known yet
    long: list[int] = []
    line, begin, count, position = 0, start, 0, -1
    reading = source.read(start, stop)
    for found in reading:
        # The lines of one bad row share its position, so a chunk cannot begin between them.
        if count >= shard_rows and found.position != position:
            chunks.append(Chunk(begin, len(rows) - count, count))
            begin, count = found.position, 0
        elif not rows:
            begin = found.position
        count, line, position = count + 1, found.line, found.position
        row = found.row
        try:
            if isinstance(row, BadRowError):
                raise row
            if len(seen) < _MOST_COLUMNS:
                seen.update(row)
            record = parse(row, source.columns, form=source.form, source="", number=0)
            _check_fits(record, method)
            rows.append(_identity(record, benchmarks, extraction, method))
            if long_rows is not None:
                waiting.append((len(rows) - 1, record))
                if len(waiting) == MEASURED_AT_ONCE:
                    long += _long(waiting, long_rows)
                    waiting = []
            if isinstance(record, Extraction) and len(types) <= MOST_TYPES:
                named = record.entities if extraction.answer == "entities" else record.relations
                types.update(each.type for each in named)
        except BadRowError as reason:
            rows.append((False, 0, 0, 0, 0, 0, False, False, False))
            if isinstance(reason, UselessRowError):
                left_out.append(str(reason))
                continue
            rejects.append({"file": found.file or source.name, "line": line, "reason": str(reason)})
    if count:
        chunks.append(Chunk(begin, len(rows) - count, count))
    if long_rows is not None and waiting:
        long += _long(waiting, long_rows)
    too_long = np.zeros(len(rows), bool)
    too_long[long] = True
    table = list(zip(*rows, strict=True)) if rows else [()] * 9
    kinds = (bool, *[np.uint64] * 5, bool, bool, bool)
    good, ids, inputs, pairs, groups, labels, contaminated, rationale, entities = (
        np.array(column, kind) for column, kind in zip(table, kinds, strict=True)
    )
    return RangeIndex(
        chunks=chunks,
        rejects=rejects,
        lines=getattr(reading, "lines", None)
        or line,  # includes blank lines at the end of a range that is a part of a file
        good=good,
        ids=ids,
        inputs=inputs,
        pairs=pairs,
        groups=groups,
        labels=labels,
        contaminated=contaminated,
        too_long=too_long,
        with_rationale=rationale,
        with_entities=entities,
        columns_seen=sorted(seen),
        types_seen=sorted(types),
        left_out=left_out,
    )


def _long(
    waiting: Sequence[tuple[int, Record]], long_rows: Callable[[Sequence[Record]], np.ndarray]
) -> list[int]:
    """Return the numbers of the rows that are too long."""
    found = long_rows([record for _, record in waiting])
    return [number for (number, _), is_long in zip(waiting, found, strict=True) if is_long]


def _check_fits(record: Record, method: MethodSpec) -> None:
    """Raise BadRowError for a record that the method cannot train on."""
    for column in method.columns:
        if column.every_row and not getattr(record, column.name, None):
            raise BadRowError(f"no {column.name!r}, and {column.why} it")
    if isinstance(record, Preference) and not method.needs_in_every_row("rejected"):
        raise BadRowError(f"a preference pair, which method.name: {method.name} does not train on")


def _identity(
    record: Record, benchmarks: Benchmarks | None, extraction: ExtractionConfig, method: MethodSpec
) -> tuple[bool, int, int, int, int, int, bool, bool, bool]:
    question, answer = question_and_answer(record)
    words = same_text(question)
    asked = bytes_hash(words)
    origin = record.origin
    # parse() got no source, so ":1" is the default id of a row without an id.
    name = 0 if origin.id == ":1" else text_hash(origin.id)
    rationale = isinstance(record, Distill | TwoStep) and bool(record.rationale)
    compared = answer if method.identity == "input_and_answer" else ""
    written = answer
    if isinstance(record, Extraction):
        written = extraction_answer(record, extraction.answer, extraction.types)
    elif isinstance(record, Preference):
        written = record.chosen
    return (
        True,
        name,
        asked,
        bytes_hash(words + b"\n" + same_text(compared)),
        text_hash(origin.group) if origin.group else asked,
        0 if written in ("", EMPTY_LIST) else text_hash(written),
        benchmarks is not None and benchmarks.hold(question, compared),
        rationale,
        isinstance(record, Distill) and record.entities is not None,
    )


def check_columns(source: Source, seen: set[str], key: str, method: MethodSpec | None = None) -> None:
    """Raise InputError if no row has a column that the user named or that the method needs, or if a schema needs input
    and label and rows lack them.
    """
    columns = source.columns
    for needed in method.columns if method is not None and source.form == "auto" and seen else ():
        if needed.every_row and needed.name not in seen and not hasattr(columns, needed.name):
            shown = column_names(seen)
            raise InputError(
                f"no row of {source.name} has a column {needed.name!r}, and {needed.why} it"
                + (f"; its columns are {shown}" if shown else ""),
                key=key,
                fix=f"use rows with {needed.name}, as {needed.command} writes them, or set {needed.without}",
            )
    if source.form != "columns" and not (
        source.form == "auto" and form_of(dict.fromkeys(seen), columns) == "columns"
    ):
        return
    if not seen:
        return
    for name in sorted({"input", "label"} | (columns.model_fields_set - {"lang", "label_names"})):
        alias = name == "label" and "label" not in columns.model_fields_set and "output" in seen
        for column in () if alias else columns.named_by(name):
            if not is_there(column, seen):
                raise _no_column(source, seen, f"data.columns.{name}", column)


def _no_column(source: Source, seen: set[str], key: str, column: str) -> InputError:
    shown = column_names(seen)
    wrong = what_is_wrong(source.path, source.format) if isinstance(source, FileSource) else None
    if wrong is not None:
        return InputError(
            f"{source.name} has no column of this name: {wrong[0]}", key=key, value=column, fix=wrong[1]
        )
    if shown is not None:
        near = nearest_name(column, seen)
        return InputError(
            f"{source.name} has no column of this name",
            key=key,
            value=column,
            fix=(f"did you mean {near!r}? " if near else "") + f"use one of its columns: {shown}",
        )
    names = "1 column" if len(seen) == 1 else f"{len(seen)} columns"
    format = getattr(source, "format", "")
    reason, fix = _NO_USUAL_NAME.get(format, _NO_USUAL_KEY)
    return InputError(
        f"{source.name} has no column of this name; the names of its {names} are not shown, because none is a usual name: "
        + reason,
        key=key,
        value=column,
        fix=fix,
    )
