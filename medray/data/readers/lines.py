"""Lines of text whose memory is bounded: one that is too long is read past, not held."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

from medray.errors import InputError

LONGEST_LINE = 64 << 20  # bytes of a line, and of a record of several lines; longer ones are bad rows
LONGEST_SKIPPED = 1 << 30  # bytes without a line end after which a file is taken for no text at all
TOO_LONG = f"longer than {LONGEST_LINE >> 20} MB"
LONG_MARK = b"\xff\0 too long"  # no text
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
                mend="name a text file; one large JSON array is .json, not .jsonl",
            )
        part = stream.readline(_STEP)
        length, quotes, ended = (
            length + len(part),
            quotes + part.count(b'"'),
            not part or part.endswith(b"\n"),
        )
    return LongLine(length, quotes)


def lines_of(stream: io.BufferedIOBase, name: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a whole file; LONG_MARK in place of a line over the limit."""
    number = 1
    while line := read_line(stream, name, number):
        yield number, LONG_MARK if isinstance(line, LongLine) else line
        number += 1
