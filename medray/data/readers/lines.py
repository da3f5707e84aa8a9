"""Reading of lines with bounded memory: a line that is too long is skipped, not kept."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from medray.errors import InputError

LONGEST_LINE = 64 << 20  # bytes of a line or of a record of several lines; longer ones are bad rows
LONGEST_SKIPPED = 1 << 30  # a file with this many bytes without a line end is not a text file
TOO_LONG = f"longer than {LONGEST_LINE >> 20} MB"
LONG_MARK = b"\xff\0 too long"  # cannot be text
BLANK = re.compile(rb"(?:\n+|[ \t\r]++\n)*+")  # empty lines and lines of white space
EMPTY = re.compile(rb"(?:\n+|\r\n)*+")  # empty lines
_STEP = 1 << 20


class LongLine(NamedTuple):
    """A line over the length limit, which was skipped. Only its length in bytes and its double quotes were counted."""

    length: int
    quotes: int


def read_line(stream: io.BufferedIOBase, name: str, number: int | None = None) -> bytes | LongLine:
    """Return the next line including its line end, or b"" at the end of the file.

    number: the line's number, if known.

    Raises InputError for a line so long that the file cannot be text: skipping through a sparse file would take hours.
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
                f"{where} has no end within {LONGEST_SKIPPED >> 20:,} MB: this is not a text file with lines",
                file=name,
                fix="use a text file; give one large JSON array the ending .json, not .jsonl",
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
    """Skip consecutive blank lines. Return their size in bytes and their number.

    Blank lines in the buffer are found in bulk, because a small compressed file may contain billions. most: number of
    bytes after which none of these lines may begin.
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
    """Yield (number from 1, line) for all lines of a file. Of consecutive blank lines, only the first is yielded.

    A line over the length limit is replaced by LONG_MARK.
    """
    number = 1
    while line := read_line(stream, name, number):
        yield number, LONG_MARK if isinstance(line, LongLine) else line
        number += 1
        if line in (b"\n", b"\r\n"):
            number += skip_blank(stream, EMPTY)[1]
