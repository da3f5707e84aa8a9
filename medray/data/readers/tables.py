"""CSV and TSV. Quoting is strict: a quote where none may stand would move text from one row or column to another."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from medray.data.readers.found import Found
from medray.data.records import BadRowError
from medray.errors import InputError

csv.field_size_limit(1 << 30)


def read_csv(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Iterator[Found]:
    """Rows from byte `start` on as {column: text}. Raises InputError where what follows cannot be told apart."""
    return _read(stream, name, start, line, ",")


def read_tsv(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Iterator[Found]:
    return _read(stream, name, start, line, "\t")


def _read(stream: io.BufferedReader, name: str, start: int, line: int, delimiter: str) -> Iterator[Found]:
    text = _Lines(stream, name)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(rows, name)
    if header is None:
        return
    if start:
        stream.seek(start)
        text.position, text.number = start, line - 1
        rows = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        begin, number = text.position, text.number + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if text.ended:
                raise InputError(
                    f"a quote in the row at byte {begin}, line {number}, is never closed",
                    file=name,
                    mend="close it; a quote inside of a quoted field is written twice",
                ) from None
            yield Found(begin, number, BadRowError(f"not valid CSV ({error})"))
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            reason = f"{len(fields)} fields where the header has {len(header)}"
            yield Found(begin, number, BadRowError(reason))
        elif not _is_text(fields):
            yield Found(begin, number, BadRowError("not UTF-8"))
        else:
            yield Found(begin, number, dict(zip(header, fields, strict=True)))


def _is_text(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(rows: Iterator[list[str]], name: str) -> list[str] | None:
    try:
        header = next((fields for fields in rows if fields), None)
    except csv.Error as error:
        raise InputError(
            f"its header is not valid CSV ({error})", file=name, mend="correct its first line"
        ) from None
    for place, column in enumerate(header or ()):
        if header is not None and column and (earlier := header.index(column)) < place:
            raise InputError(
                f"columns {earlier + 1} and {place + 1} of its header have one name",
                file=name,
                mend="rename one",
            )
    return header


class _Lines:
    """Lines of text for the csv module. position, number: bytes and lines that it has been given."""

    def __init__(self, stream: io.BufferedReader, name: str) -> None:
        self._stream, self._name = stream, name
        self.position, self.number, self.ended = 0, 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            self.ended = True
            raise StopIteration
        before = self.position
        self.position += len(line)
        self.number += 1
        try:
            # A byte that is no text becomes half of a surrogate pair, by which its row is known; a header is needed.
            return line.decode("utf-8" if before else "utf-8-sig", "surrogateescape" if before else "strict")
        except UnicodeDecodeError as error:
            # error.start counts in what the decoder was given: without the mark, where there is one
            byte = self.position - len(error.object) + error.start
            raise InputError(f"not UTF-8 at byte {byte}", file=self._name, mend="save it as UTF-8") from None
