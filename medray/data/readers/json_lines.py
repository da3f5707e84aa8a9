"""The readers of JSONL (one row per line) and of the converted format, JSONL with the source file and line of each row.

A range [start, stop) of bytes holds the lines that begin in it, so adjacent ranges hold every line exactly once, wherever
the boundary is.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Generator
from typing import Any

import orjson

from medray.data.readers import lines
from medray.data.records import BadRowError, Found, Row
from medray.errors import InputError

BLANK_BYTES = b"\xef\xbb\xbf \t\r\n"
# orjson turns integers beyond 64 bits into floats, so rows with numbers this large are parsed again by the exact parser.
_LARGE = 2.0**63


def read(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Generator[Found, None, int]:
    """Yield the rows of the lines that begin in [start, stop).

    A line that is not a JSON object is a bad row; blank lines are skipped. Returns the number of lines in the range,
    including blank ones.
    """
    return (yield from _read(stream, name, start, stop, line, _found))


def read_converted(
    stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int
) -> Generator[Found, None, int]:
    """Yield the rows of a file that `convert` wrote, with the source file and line of each row."""

    def found(text: bytes, position: int, number: int) -> Found:
        match parse(text):
            case {"file": str(file), "line": int(original), "row": dict(row)}:
                return Found(position, original, exact(row, text, "row"), file)
            case {"file": str(file), "line": int(original), "reject": str(reason)}:
                return Found(position, original, BadRowError(reason), file)
        raise InputError(
            f"the converted file is damaged at byte {position}",
            file=name,
            fix="delete the file and run the command again",
        )

    return (yield from _read(stream, name, start, stop, line, found))


def wrapped(file: str, line: int, row: Row) -> bytes:
    """Return one line of the converted format: a row with its source file and line."""
    kind, value = ("reject", str(row)) if isinstance(row, BadRowError) else ("row", row)
    whole = {"file": file, "line": line, kind: value}
    try:
        return json.dumps(whole, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(whole).encode() + b"\n"
    except RecursionError:
        return wrapped(file, line, BadRowError("the JSON of the line is nested too deeply"))


def parse(text: bytes) -> Row | None:
    """Parse a line. Return its row, or None for a blank line."""
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_exactly(text)
    if type(row) is dict:
        return exact(row, text)
    return _parse_exactly(text)


def exact(row: dict[str, Any], text: bytes, inside: str | None = None) -> Row:
    """Return `row`, parsed again from its text if a column may have been an integer of more than 64 bits."""
    for value in row.values():
        if type(value) is float and not -_LARGE < value < _LARGE:
            try:
                again = json.loads(text)
            except RecursionError:
                return BadRowError("not valid JSON")
            found: Row = again[inside] if inside else again
            return found
    return row


def _parse_exactly(text: bytes) -> Row | None:
    """Parse with the standard library, which also accepts NaN and unpaired surrogates, which orjson refuses."""
    if not text.strip(BLANK_BYTES):
        return None
    try:
        row = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BadRowError("not UTF-8")
    except (ValueError, RecursionError):
        return BadRowError("not valid JSON: a NUL byte" if b"\0" in text else "not valid JSON")
    return (
        row
        if isinstance(row, dict)
        else BadRowError(f"the row is a JSON {type(row).__name__}, not an object")
    )


def _found(text: bytes, position: int, number: int) -> Found | None:
    row = parse(text)
    return None if row is None else Found(position, number, row)


def _read(
    stream: io.BufferedReader,
    name: str,
    start: int,
    stop: int | None,
    line: int,
    found: Callable[[bytes, int, int], Found | None],
) -> Generator[Found, None, int]:
    position, number = _line_begin(stream, name, start), line
    end = sys.maxsize if stop is None else stop
    while position < end and (text := lines.read_line(stream, name, number if start == 0 else None)):
        if isinstance(text, lines.LongLine):
            length = text.length
            item: Found | None = Found(position, number, BadRowError(lines.TOO_LONG))
        else:
            length, item = len(text), found(text, position, number)
        if item is not None:
            yield item
        position += length
        number += 1
        if item is None:
            skipped, lines_skipped = lines.skip_blank(stream, lines.BLANK, end - position)
            position, number = position + skipped, number + lines_skipped
    return number - line


def _line_begin(stream: io.BufferedReader, name: str, start: int) -> int:
    if start == 0:
        return 0  # a compressed stream cannot seek
    stream.seek(start - 1)
    text = lines.read_line(stream, name)
    return start - 1 + (text.length if isinstance(text, lines.LongLine) else len(text))
