"""Readers: files to rows, each with a position from which reading can go on.

A reader yields (position, row) where position is the byte offset at which the row begins; `read(start=position)`
begins there again without reading what stands before. A row that cannot be read on its own is yielded as a
BadRowError; a file that cannot be read on is an InputError that names the byte.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medray.data.records import BadRowError
from medray.errors import InputError

Row = dict[str, Any] | BadRowError
_CHUNK = 1 << 20
csv.field_size_limit(1 << 30)


def read_file(path: Path, start: int = 0) -> Iterator[tuple[int, Row]]:
    """Rows of `path` from byte `start` on, by the file's ending."""
    reader = _READERS[path.suffix.lower()]
    with path.open("rb") as stream:
        yield from reader(path, stream, start)


def _jsonl(path: Path, stream: BinaryIO, start: int) -> Iterator[tuple[int, Row]]:
    stream.seek(start)
    position = start
    for line in stream:
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            yield position, _json_row(line)
        position += len(line)


def _json_row(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BadRowError("not UTF-8")
    except (ValueError, RecursionError):
        return BadRowError("not valid JSON")
    return row if isinstance(row, dict) else BadRowError(f"a JSON {type(row).__name__}, not an object")


def _json(path: Path, stream: BinaryIO, start: int) -> Iterator[tuple[int, Row]]:
    """An array of objects, objects one after another (pretty-printed or not), or a mix: separators are skipped.

    The text grows by chunks until a value is whole; a number at its end may go on in the next chunk.
    """
    stream.seek(start)
    decode = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
    decoder = json.JSONDecoder()
    text, at, position, chunk, ended, opened = "", 0, start, _CHUNK, False, 0
    if start == 0 and stream.read(3) == codecs.BOM_UTF8:
        position = 3
    stream.seek(start)
    while True:
        begin = at
        while at < len(text) and text[at] in " \t\r\n,[]":
            opened += (text[at] == "[") - (text[at] == "]")
            at += 1
        position += at - begin  # separators are one byte each
        try:
            if at == len(text):
                raise ValueError
            row, end = decoder.raw_decode(text, at)
            if isinstance(row, int | float) and len(text) - end <= len("e+") and not ended:
                raise ValueError
        except (ValueError, RecursionError):
            if ended and at < len(text):
                raise InputError(f"not valid JSON at byte {position}", file=path) from None
            if ended and start == 0 and opened > 0:
                raise InputError(f"an array is not closed at the end, byte {position}", file=path) from None
            if ended:
                return
            data = stream.read(chunk)
            ended = not data
            try:
                more = decode.decode(data, final=ended)
            except UnicodeDecodeError as error:
                byte = position + len(text[at:].encode()) + error.start
                raise InputError(f"not UTF-8 at byte {byte}", file=path) from None
            text, at, chunk = text[at:] + more, 0, chunk * 2
            continue
        yield (
            position,
            row if isinstance(row, dict) else BadRowError(f"a {type(row).__name__}, not an object"),
        )
        position += len(text[at:end].encode())
        at, chunk = end, _CHUNK


def _csv(path: Path, stream: BinaryIO, start: int, delimiter: str = ",") -> Iterator[tuple[int, Row]]:
    """Quoting is strict: a quote that stands where none may would move text from one row or column to another."""
    position, ended = 0, False

    def lines() -> Iterator[str]:
        nonlocal position, ended
        for line in stream:
            position += len(line)
            try:
                yield line.decode("utf-8-sig" if position == len(line) else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"not UTF-8 at byte {position - len(error.object) + error.start}", file=path
                ) from None
        ended = True

    rows = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        header = next((fields for fields in rows if fields), None)
    except csv.Error as error:
        raise InputError(f"its header is not valid CSV ({error})", file=path) from None
    if header is None:
        return
    if start:
        stream.seek(start)
        position = start
        rows = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        begin = position
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if ended:
                raise InputError(f"a quote in the row at byte {begin} is never closed", file=path) from None
            yield begin, BadRowError(f"not valid CSV ({error})")
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            yield begin, BadRowError(f"{len(fields)} fields where the header has {len(header)}")
        else:
            yield begin, dict(zip(header, fields, strict=True))


_READERS: dict[str, Callable[[Path, BinaryIO, int], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": lambda path, stream, start: _csv(path, stream, start, "\t"),
}
