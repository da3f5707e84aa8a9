"""Lines of text whose memory is bounded: one that is too long is read past, not held."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from medray.errors import InputError

LONGEST_LINE = 64 << 20  # bytes of a line, and of a record of several lines; longer ones are bad rows
LONGEST_SKIPPED = 1 << 30  # bytes without a line end after which a file is taken for no text at all
TOO_LONG = f"longer than {LONGEST_LINE >> 20} MB"
LONG_MARK = b"\xff\0 too long"  # no text
BLANK = re.compile(rb"(?:\n+|[ \t\r]++\n)*+")  # lines of nothing or white space
EMPTY = re.compile(rb"(?:\n+|\r\n)*+")  # lines of nothing
_STEP = 1 << 20


class LongLine(NamedTuple):
    """A line over the limit, of which only the bytes and the double quotes were counted."""

    length: int
    quotes: int


def read_line(stream: io.BufferedIOBase, name: str, number: int | None = None) -> bytes | LongLine:
    """The next line with its end, b"" at the end of the file. number: of the line, where it is known.

    Raises InputError for a line so long that the file cannot be text: to read past a sparse file takes hours.
    """
    line = stream.readline(LONGEST_LINE + 1)
    if len(line) <= LONGEST_LINE:
        return line
    length, quotes, ended = len(line), line.count(b'"'), line.endswith(b"\n")
    del line
    while not ended:
        if length > LONGEST_SKIPPED:
            where = "a line" if number is None else f"line {number}"
            raise InputError(
                f"{where} has no end within {LONGEST_SKIPPED >> 20:,} MB: this is no file of lines",
                file=name,
                fix="name a text file; one large JSON array is .json, not .jsonl",
            )
        part = stream.readline(_STEP)
        length, quotes, ended = (
            length + len(part),
            quotes + part.count(b'"'),
            not part or part.endswith(b"\n"),
        )
    return LongLine(length, quotes)


def skip_blank(
    stream: io.BufferedReader, blank: re.Pattern[bytes], most: int | None = None
) -> tuple[int, int]:
    """Read past the blank lines that come next; return their bytes and number.

    They are found in bulk, as far as they lie in the buffer: a small compressed file may hold thousands of millions.
    most: bytes after which no line of them may begin.
    """
    length = number = 0
    while most is None or length < most:
        ahead = stream.peek()
        if most is not None:
            ahead = ahead[: most - length]
        match = blank.match(ahead)
        if match is None or not match.end():
            break
        stream.read(match.end())
        length, number = length + match.end(), number + ahead.count(b"\n", 0, match.end())
    return length, number


def lines_of(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line) of a whole file, of blank lines in a row only the first.

    LONG_MARK is in place of a line over the limit.
    """
    number = 1
    while line := read_line(stream, name, number):
        yield number, LONG_MARK if isinstance(line, LongLine) else line
        number += 1
        if line in (b"\n", b"\r\n"):
            number += skip_blank(stream, EMPTY)[1]
