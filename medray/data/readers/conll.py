"""The reader of CoNLL files: one token and its tag per line, a blank line after each sentence; tags of IOB or BIOES."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from medray.data.readers import lines as bounded
from medray.data.readers.bigbio import Mention, Passage, document
from medray.data.records import BadRowError, Row

_BEGIN, _GO_ON = "BSU", "IEL"  # S and U are entities of one token, E and L mark the last token
_DOCUMENT = b"-DOCSTART-"


def read(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, Row]]:
    """Read the sentences of a CoNLL file: yield (line, row in BigBio's form), with tokens joined by blanks.

    Columns are separated by tabs, or by blanks if a line has no tab: the first is the token, the last its tag. An I-
    tag that continues no entity begins one. Lines with -DOCSTART- separate documents; only then do rows have a unique
    "document_id" and an "id".
    """
    documents, sentences, document_id = 0, 0, ""
    for first, block in _blocks(stream, name):
        if block[0].startswith(_DOCUMENT):
            documents, sentences = documents + 1, 0
            continue
        row: Row
        try:
            row = _sentence(first, block)
        except BadRowError as error:
            row = error
        if documents:
            if sentences == 0:
                # Documents have no names: their number and first words distinguish those of files with the same name.
                begin = hashlib.sha256(b"\n".join(block)).hexdigest()[:12]
                document_id = f"{PurePosixPath(name).name.split('.')[0]}:{documents}:{begin}"
            sentences += 1
            if isinstance(row, dict):
                row = {**row, "id": f"{document_id}:{sentences}", "document_id": document_id}
        yield first, row


def _blocks(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of one sentence with the number of the first; a line -DOCSTART- is a block of its own."""
    block: list[bytes] = []
    first = held = 0
    for number, raw in bounded.lines_of(stream, name):
        line = raw.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if block and (not line.strip() or line.startswith(_DOCUMENT)):
            yield first, block
            block = []
        if line.startswith(_DOCUMENT):
            yield number, [line]
        elif line.strip():
            first = first if block else number
            held = held + len(line) if block else len(line)
            block.append(line)
            if held > bounded.LONGEST_LINE:
                block = [bounded.LONG_MARK]
    if block:
        yield first, block


def _sentence(first: int, lines: list[bytes]) -> dict[str, Any]:
    if bounded.LONG_MARK in lines:
        raise BadRowError(bounded.TOO_LONG)
    text = ""
    found: list[tuple[str, int, int]] = []
    open_type: str | None = None
    for number, raw in enumerate(lines, first):
        token, tag = _token(raw, number)
        start = len(text) + 1 if text else 0
        text = f"{text} {token}" if text else token
        letter, _, kind = tag.partition("-")
        if letter == "O" and not kind:
            open_type = None
        elif letter in _GO_ON and kind == open_type:
            found[-1] = (kind, found[-1][1], len(text))
        elif letter in _BEGIN + _GO_ON:
            found.append((kind, start, len(text)))
            open_type = kind
        else:
            raise BadRowError(f"line {number} has a tag that is not O, B-, I-, E-, S-, L- or U-")
    mentions = [Mention(kind, text[start:end], [(start, end)]) for kind, start, end in found]
    row = document("", [Passage("sentence", 0, text)], mentions)
    del row["document_id"]
    return row


def _token(raw: bytes, number: int) -> tuple[str, str]:
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        raise BadRowError(f"line {number} is not UTF-8") from None
    fields = line.split("\t") if "\t" in line else line.split()
    token, tag = fields[0].strip(), fields[-1].strip()
    if len(fields) < 2 or not token or not tag:
        raise BadRowError(f"line {number} has no token or no tag")
    return token, tag
