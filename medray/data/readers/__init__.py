"""Readers, which turn the bytes of a file into rows, each with the position from which reading can be resumed.

JSONL, JSON, CSV, TSV, Parquet and the converted format can be read from any position. All other formats, and all
compressed files, are read from the start; `convert` turns them into one file that can be read from any position. A row
that cannot be read is yielded as a BadRowError; a file that cannot be read further raises an InputError with the
position.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from medray.data import files
from medray.data.files.formats import compression_of, format_of, known_format
from medray.data.readers import (
    bioc,
    compressed,
    conll,
    huggingface,
    json_lines,
    json_text,
    lines,
    parquet,
    pubtator,
    tables,
    xml_elements,
)
from medray.data.readers.converted import convert, write_converted
from medray.data.records import Found, Row
from medray.errors import InputError

__all__ = [
    "Found",
    "Row",
    "RowReader",
    "convert",
    "format_of",
    "known_format",
    "positional",
    "ranges",
    "read",
    "write_converted",
]

# Readers by position in bytes or rows: (stream, name, start, stop, line) → Found.
_POSITIONAL: dict[str, Any] = {
    "jsonl": json_lines.read,
    "converted": json_lines.read_converted,
    "json": json_text.read,
    "csv": tables.read_csv,
    "tsv": tables.read_tsv,
    "tsv_quoted": tables.read_tsv_quoted,
    "parquet": parquet.read,
}
# Readers from the start: (stream, name) → (line, row).
_WHOLE: dict[str, Any] = {
    "pubtator": pubtator.read,
    "conll": conll.read,
    "medquad_xml": xml_elements.read,
    "bioc": bioc.read,
}


def positional(path: str, format: str) -> bool:
    """Return whether reading can begin at any position, without reading the rows before it."""
    return format in _POSITIONAL and compression_of(path) is None


def ranges(path: str, format: str, block_bytes: int = 32 << 20) -> list[tuple[int, int | None]]:
    """Split a file into ranges (start, stop) for parallel readers.

    Together they hold every row once. stop None: to the end.

    Ranges are in bytes for jsonl and converted, and in rows for parquet; every other format has one range.
    """
    if format == "parquet" and positional(path, format):
        with files.open_binary(path) as stream:
            return parquet.ranges(stream, files.shown(path), block_bytes)
    if format not in ("jsonl", "converted") or not positional(path, format):
        return [(0, None)]
    size = files.size(path)
    count = max(1, -(-size // block_bytes))
    if count > 1:  # a file without line ends is refused before it becomes thousands of ranges
        with files.open_binary(path) as stream:
            lines.read_line(stream, files.shown(path), 1)
    begins = [size * part // count for part in range(count)]
    return list(zip(begins, [*begins[1:], None], strict=True))


def read(
    path: str,
    format: str,
    start: int = 0,
    stop: int | None = None,
    line: int = 1,
    *,
    split: str = "train",
    subset: str | None = None,
) -> RowReader:
    """Read the rows of `path` whose positions are in [start, stop).

    start: a position from an earlier read, or the start of a range. line: the line number at `start`; it is needed
    only for formats that can be read from any position and do not store line numbers. split, subset: those of a
    Hugging Face data set.
    """
    return RowReader(path, format, start, stop, line, split, subset)


class RowReader(Iterator[Found]):
    """An iterator over the rows of a range of a file.

    lines: the number of lines in the range, including blank ones, once all rows of a jsonl file are read; else None.
    Parallel readers add these numbers up to find the first line of each range. skipped: number of rows that the format
    leaves out on purpose.
    """

    lines: int | None = None
    skipped: int = 0

    def __init__(
        self,
        path: str,
        format: str,
        start: int,
        stop: int | None,
        line: int,
        split: str,
        subset: str | None,
    ) -> None:
        if format not in (*_POSITIONAL, *_WHOLE, "huggingface"):
            raise ValueError(f"there is no reader for the format {format!r}")
        self._path, self._format, self._split, self._subset = path, format, split, subset
        self._rows = self._read(start, stop, line)

    def __iter__(self) -> Iterator[Found]:
        return self._rows

    def __next__(self) -> Found:
        return next(self._rows)

    def close(self) -> None:
        """Close the file, even if not all rows were read."""
        self._rows.close()

    def _read(self, start: int, stop: int | None, line: int) -> Generator[Found, None, None]:
        name, format = files.shown(self._path), self._format
        if format == "huggingface":
            whole = huggingface.read(self._path, self._split, self._subset)
            yield from _within(_numbered(whole), start, stop)
            return
        try:
            with files.open_binary(self._path) as stream:
                if format == "jsonl" and positional(self._path, format):
                    self.lines = yield from json_lines.read(stream, name, start, stop, line)
                elif positional(self._path, format):
                    yield from _within(_POSITIONAL[format](stream, name, start, stop, line), start, stop)
                else:
                    yield from _within(self._from_start(stream, name), start, stop)
        except OSError as error:
            raise InputError(
                f"the file cannot be read further ({error.strerror or type(error).__name__})",
                file=name,
                fix="copy the file again, or check its disk",
            ) from None

    def _from_start(self, stream: Any, name: str) -> Generator[Found, None, None]:
        compression = compression_of(self._path)
        if compression is not None:
            if self._format == "parquet":
                raise InputError(
                    "medray cannot read a Parquet file that is compressed as a whole",
                    file=name,
                    fix="unpack the file",
                )
            stream = compressed.opened(stream, compression, name)
        if self._format in _POSITIONAL:
            found = _POSITIONAL[self._format](stream, name, 0, None, 1)
            yield from (each._replace(position=number) for number, each in enumerate(found))
        else:
            self.skipped = (yield from _numbered(_WHOLE[self._format](stream, name))) or 0


def _numbered(rows: Iterator[tuple[int, Row]]) -> Generator[Found, None, int | None]:
    """Yield rows with their numbers as positions, and return what `rows` returns."""
    number = 0
    while True:
        try:
            line, row = next(rows)
        except StopIteration as ended:
            skipped: int | None = ended.value
            return skipped
        yield Found(number, line, row)
        number += 1


def _within(found: Iterator[Found], start: int, stop: int | None) -> Iterator[Found]:
    for each in found:
        if stop is not None and each.position >= stop:
            return
        if each.position >= start:
            yield each
