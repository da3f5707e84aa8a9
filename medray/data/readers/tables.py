"""The readers of CSV and TSV files.

CSV has quotes, and quoting is strict: a quote in a wrong position would move text from one row or column to another.
TSV has no quotes: a tab ends a cell, a line end ends a row, and a quote is a plain character. The format `tsv_quoted`
is for TSV files with quotes, which a CSV writer made.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from medray.data.readers import lines
from medray.data.records import BadRowError, Found
from medray.errors import InputError

csv.field_size_limit(1 << 30)

_QUOTED_CELLS = {
    sign: re.compile(rf'(?:^|(?<={sign}))"(?:[^"]|"")*"(?={sign}|\r?\n?\Z)') for sign in (",", "\t")
}

# A cell that only a CSV writer produces: in quotes, with quotes inside doubled.
_CSV_CELL = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
_HINT = "for a file with quoted cells, set the format to tsv_quoted"


def read_csv(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Iterator[Found]:
    """Yield the rows of a CSV file from byte `start` on as {column: text}.

    Raises InputError if the rest of the file cannot be split into rows.
    """
    return _read_quoted(stream, name, start, line, ",")


def read_tsv_quoted(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Iterator[Found]:
    """Yield the rows of a TSV file with quotes. This is `read_csv` with tabs between the cells."""
    return _read_quoted(stream, name, start, line, "\t")


def read_tsv(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Iterator[Found]:
    """Yield the rows of a TSV file without quotes from byte `start` on as {column: text}.

    Each line after the header that is not blank is one row.
    """
    source = _Lines(stream, name)
    header: list[str] = []
    while not header:
        text = source.next()
        if text is None:
            return
        if not (header := _cells(text)):
            source.skip_empty()
    if any("\r" in column for column in header):
        raise InputError(
            "the lines of this file end with a single carriage return",
            file=name,
            fix="save the file with \\n or \\r\\n as line ends",
        )
    if all(len(column) > 1 and column[0] == column[-1] == '"' for column in header):
        raise InputError(
            "the header has quoted cells, but the format tsv has no quotes",
            file=name,
            fix="set the format of the source: {path: …, format: tsv_quoted}",
        )
    _check_names(header, name)
    if start:
        stream.seek(start)
        source.position, source.number = start, line - 1
    while True:
        begin, number = source.position, source.number + 1
        try:
            text = source.next()
        except BadRowError as error:
            yield Found(begin, number, error)
            continue
        if text is None:
            return
        if not (cells := _cells(text)):
            source.skip_empty()
            continue
        if any(_CSV_CELL.fullmatch(cell) for cell in cells):
            reason = BadRowError(f"a cell is quoted as in CSV; {_HINT}")
            yield Found(begin, number, reason)
        elif len(cells) != len(header) and any(cell.startswith('"') for cell in cells):
            yield Found(begin, number, BadRowError(f"{_width(cells, header)}; {_HINT}"))
        else:
            yield Found(begin, number, _row(cells, header))


def _cells(line: str) -> list[str]:
    """Return the cells of a TSV line, [] for a blank line."""
    line = line.removesuffix("\n").removesuffix("\r")
    return line.split("\t") if line else []


def _read_quoted(
    stream: io.BufferedReader, name: str, start: int, line: int, delimiter: str
) -> Iterator[Found]:
    source = _Lines(stream, name)
    rows = csv.reader(source, delimiter=delimiter, strict=True)
    header = _header(rows, source, name)
    if header is None:
        return
    if start:
        stream.seek(start)
        source.position, source.number = start, line - 1
        rows = csv.reader(source, delimiter=delimiter, strict=True)
    doubt = _Doubt(name, delimiter, len(header), source.record, whole=not start)
    while True:
        begin, number = source.position, source.number + 1
        source.begin()
        found: dict[str, str] | BadRowError
        try:
            fields = next(rows)
        except StopIteration:
            doubt.end()
            return
        except BadRowError as error:
            found = error
        except csv.Error as error:
            if source.ended:
                after = source.number - number
                raise InputError(
                    f"a quote in the row at byte {begin}, line {number}, is never closed"
                    + (f"; its cell would contain the {after:,} lines after it" if after else ""),
                    file=name,
                    fix="close the quote; inside a quoted cell, write a quote twice",
                ) from None
            found = BadRowError(f"not valid CSV ({error})")
        else:
            if not fields:
                source.skip_empty()
                continue
            found = _row(fields, header)
            doubt.look(source.record, number)
        if isinstance(found, BadRowError) and len(source.record) > 1:
            # A quote that opens by mistake turns many rows into one: each lost line is counted as a bad row.
            reason = BadRowError(f"{found}, in a row that spans several lines because of its quotes")
            yield from (Found(begin, number + each, reason) for each in range(len(source.record)))
        else:
            yield Found(begin, number, found)


class _Doubt:
    """A check whether the quotes of a file are CSV quotes.

    A CSV writer quotes every cell that contains a quote. In a file with quotes in unquoted cells, a cell may also begin
    with a quote that is a plain character. If a later cell ends with another one, as in `5"`, the rows between them become
    one valid row, in which each line looks like a row. This alone is enough evidence if no other row of the file has a
    quoted cell, and no delimiter within these cells is followed by a blank, as in prose.
    """

    _FIX = (
        "quote every cell that contains a quote, and double the quotes in it; for tab-separated text without quotes, use "
        "format: tsv"
    )

    def __init__(self, name: str, delimiter: str, width: int, header: Sequence[str], *, whole: bool) -> None:
        """Prepare the check. header: the lines of the header. whole: whether all rows of the file will be checked."""
        self._name, self._delimiter, self._width = name, delimiter, width
        self._whole, self._quoted = whole, '"' in "".join(header)  # whether a cell is certainly quoted
        self._loose: int | None = None  # the first line with a quote in an unquoted cell
        self._joined: tuple[int, int] | None = None  # the first lines that are one row but look like several

    def look(self, record: Sequence[str], number: int) -> None:
        """Check a row. record: its lines, of which the first is line `number`. Raises InputError."""
        if not any('"' in line for line in record):
            return
        if self._loose is None and '"' in _QUOTED_CELLS[self._delimiter].sub("", "".join(record)):
            self._loose = number
        alike = len(record) > 1 and all(line.count(self._delimiter) == self._width - 1 for line in record)
        if self._joined is None and alike:
            self._joined = number, number + len(record) - 1
        if not alike or self._width == 1 or f"{self._delimiter} " in "".join(record):
            self._quoted = True
        if self._loose is not None and self._joined is not None:
            raise self._letters(
                self._joined, f"line {self._loose} has a quote inside an unquoted cell", self._FIX
            )

    def end(self) -> None:
        """Raise InputError at the end of a file if its only quotes join lines that each look like a row."""
        if self._whole and self._joined is not None and not self._quoted:
            fix = f"{self._FIX}; if they are one row, replace the line ends in its cell by blanks"
            raise self._letters(self._joined, "no other row has a quoted cell", fix)

    def _letters(self, joined: tuple[int, int], evidence: str, fix: str) -> InputError:
        return InputError(
            f"by their quotes, lines {joined[0]} to {joined[1]} are one row, but each looks like a row; {evidence}, so "
            "the quotes of this file may be plain characters",
            file=self._name,
            fix=fix,
        )


def _row(fields: list[str], header: list[str]) -> dict[str, str] | BadRowError:
    if len(fields) != len(header):
        return BadRowError(_width(fields, header))
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return BadRowError("not UTF-8")
    return dict(zip(header, fields, strict=True))


def _width(fields: list[str], header: list[str]) -> str:
    return f"the row has {len(fields)} cells, but the header has {len(header)}"


def _header(rows: Iterator[list[str]], source: _Lines, name: str) -> list[str] | None:
    try:
        while (header := next(rows, None)) == []:
            source.skip_empty()
            source.begin()
    except csv.Error as error:
        raise InputError(
            f"the header is not valid CSV ({error})", file=name, fix="correct the first line of the file"
        ) from None
    except BadRowError as reason:
        raise InputError(
            f"the header is {reason}", file=name, fix="correct the first line of the file"
        ) from None
    if header is not None:
        _check_names(header, name)
    return header


def _check_names(header: list[str], name: str) -> None:
    seen: dict[str, int] = {}
    for place, column in enumerate(header, 1):
        if column and seen.setdefault(column, place) < place:
            raise InputError(
                f"columns {seen[column]} and {place} of the header have the same name",
                file=name,
                fix="rename one of the two columns",
            )


class _Lines:
    """An iterator over lines of text that the csv module accepts.

    position, number: bytes and lines returned so far. record: lines since `begin`.
    """

    def __init__(self, stream: io.BufferedReader, name: str) -> None:
        self._stream, self._name = stream, name
        self.position, self.number, self.ended = 0, 0, False
        self.begin()

    def begin(self) -> None:
        """Begin a record."""
        self.record: list[str] = []
        self._begun = self.position

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.next()
        if line is None:
            self.ended = True
            raise StopIteration
        self.record.append(line)
        if self.position - self._begun > lines.LONGEST_LINE:
            raise self._endless(self.number - len(self.record) + 1)
        return line

    def next(self) -> str | None:
        """Return the next line, or None at the end. Raises BadRowError for a line that is too long."""
        line = lines.read_line(self._stream, self._name, self.number + 1)
        if not line:
            return None
        before, self.number = self.position, self.number + 1
        if isinstance(line, lines.LongLine):
            self.position += line.length
            if self.record or line.quotes % 2:  # the next line may be in the middle of a cell
                raise self._endless(self.number - len(self.record))
            raise BadRowError(lines.TOO_LONG)
        self.position += len(line)
        try:
            # A byte that is not text becomes an unpaired surrogate, which marks its row as bad; the header must be valid.
            return line.decode("utf-8" if before else "utf-8-sig", "surrogateescape" if before else "strict")
        except UnicodeDecodeError as error:
            # error.start counts from the first byte after the byte order mark, if there is one
            byte = self.position - len(error.object) + error.start
            raise InputError(
                f"the file is not UTF-8 at byte {byte}", file=self._name, fix="save the file as UTF-8"
            ) from None

    def skip_empty(self) -> None:
        """Skip the empty lines that come next."""
        length, number = lines.skip_blank(self._stream, lines.EMPTY)
        self.position, self.number = self.position + length, self.number + number

    def _endless(self, number: int) -> InputError:
        return InputError(
            f"a quote in line {number} is not closed within {lines.LONGEST_LINE >> 20} MB",
            file=self._name,
            fix="close the quote; inside a quoted cell, write a quote twice",
        )
