"""The reader of PubTator files: lines of title, abstract, entities and relations with one document id.

A blank line ends a document.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from medray.data.readers import lines as bounded
from medray.data.readers.bigbio import Mention, Passage, Relation, document
from medray.data.records import BadRowError, Row

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
_NO_CONCEPT = ("", "-", "-1")


def read(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, Row]]:
    """Read the documents of a PubTator file: yield (line, row in BigBio's form).

    Offsets count characters of title + " " + abstract. A document with an unknown kind of line, or with an entity that
    is not at its offsets, is a bad row.
    """
    for first, block in _blocks(stream, name):
        row: Row
        try:
            row = _document(first, block)
        except BadRowError as error:
            row = error
        yield first, row


def _blocks(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of one document with the number of the first. A blank line or another title ends a document."""
    block: list[bytes] = []
    first = held = 0
    for number, raw in bounded.lines_of(stream, name):
        line = raw.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if block and (not line.strip() or re.match(rb"[^|\t]+\|t\|", line)):
            yield first, block
            block = []
        if line.strip():
            first = first if block else number
            held = held + len(line) if block else len(line)
            block.append(line)
            if held > bounded.LONGEST_LINE:
                block = [bounded.LONG_MARK]
    if block:
        yield first, block


def _document(first: int, lines: list[bytes]) -> dict[str, object]:
    if bounded.LONG_MARK in lines:
        raise BadRowError(bounded.TOO_LONG)
    texts: dict[str, str] = {}
    mentions: list[Mention] = []
    relations: list[Relation] = []
    document_id: str | None = None
    for number, raw in enumerate(lines, first):
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            raise BadRowError(f"line {number} is not UTF-8") from None
        text = _TEXT.fullmatch(line)
        fields = line.split("\t")
        owner = text[1] if text else fields[0]
        document_id = owner if document_id is None else document_id
        if owner != document_id:
            raise BadRowError(f"line {number} belongs to a different document")
        if text:
            if text[2] in texts:
                raise BadRowError(f"line {number} is a second title or abstract")
            texts[text[2]] = text[3]
        elif len(fields) >= 5 and _is_number(fields[1]) and _is_number(fields[2]):
            concepts = _concepts(fields[5]) if len(fields) > 5 else ()
            mentions.append(Mention(fields[4], fields[3], [(int(fields[1]), int(fields[2]))], concepts))
        elif len(fields) >= 4 and fields[1] and not _is_number(fields[1]):
            relations.append(Relation(fields[1], fields[2], fields[3]))
        else:
            raise BadRowError(f"line {number} is not a PubTator line")
    if "t" not in texts or document_id is None:
        raise BadRowError("the document has no title line")
    title, abstract = texts["t"], texts.get("a", "")
    passages = [Passage("title", 0, title), Passage("abstract", len(title) + 1, abstract)]
    return document(document_id, [passage for passage in passages if passage.text], mentions, relations)


def _concepts(field: str) -> tuple[str, ...]:
    """Return the concept ids of a mention. A composite one ("ocular and auditory toxicity") has several: id|id."""
    return tuple(found for each in re.split(r"[|;,+]", field) if (found := each.strip()) not in _NO_CONCEPT)


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10
