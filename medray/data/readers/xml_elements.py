"""The reader of XML files, one element after another with its line. Entities and external files are never resolved."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from medray.data.records import BadRowError, Row
from medray.errors import InputError

_CHUNK = 1 << 16
LONGEST_ELEMENT = 64 << 20  # bytes of a document or pair
_DEEPEST = 10_000  # levels; a small compressed file may have millions, and each costs memory


def elements(stream: io.BufferedReader, name: str, *tags: str) -> Iterator[tuple[int, Element, Element]]:
    """Yield (line, element, root) for each element with one of `tags` as soon as it ends. It is emptied afterwards.

    The root already has its attributes. Raises InputError for a file that is not well-formed, declares entities, or
    has no such element.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    builder = _Builder(tags)
    parser = DefusedXMLParser(target=builder)
    builder.expat = parser.parser
    data: bytes | None = stream.read(_CHUNK)
    if not data:
        return
    found, fed = False, 0  # bytes since an element ended, which the tree holds
    while data is not None:
        try:
            if data:
                parser.feed(data)
            else:
                parser.close()
        except DefusedXmlException as error:
            raise InputError(
                f"the XML declares entities, which medray does not resolve ({type(error).__name__})",
                file=name,
                fix="replace the entities by their text, and remove their declarations",
            ) from None
        except RecursionError:
            raise InputError(
                f"the XML is nested more than {_DEEPEST} levels deep at line {builder.line}",
                file=name,
                fix="export the file again, or close its open tags: a record needs at most ten levels",
            ) from None
        except (ParseError, ValueError, LookupError) as error:
            line, column = getattr(error, "position", (builder.line, 0))
            raise InputError(
                f"the XML is not well-formed at line {line}, column {column}",
                file=name,
                fix="correct the file there, or copy it again",
            ) from None
        fed = len(data) if builder.finished else fed + len(data)
        if fed > LONGEST_ELEMENT:
            raise InputError(
                f"the XML has no closing tag of {' or '.join(tags)} within {LONGEST_ELEMENT >> 20} MB at line "
                f"{builder.line}",
                file=name,
                fix="set the file's format to medquad_xml or bioc if it is such a file, else repair it",
            )
        found = found or bool(builder.finished)
        for line, element in builder.finished:
            yield line, element, builder.root
            element.clear()
        builder.finished.clear()
        data = stream.read(_CHUNK) if data else None
    if not found:
        raise InputError(
            f"the XML has no element {' or '.join(tags)}",
            file=name,
            fix="set the file's format to medquad_xml or bioc",
        )


class _Builder(TreeBuilder):
    def __init__(self, tags: tuple[str, ...]) -> None:
        super().__init__()
        self.expat: Any = None
        self.root: Any = None
        self.finished: list[tuple[int, Element]] = []
        self._tags, self._begun, self._depth = tags, list[int](), 0

    @property
    def line(self) -> int:
        return int(self.expat.CurrentLineNumber)

    def start(self, tag: Any, attrs: Any) -> Element:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError
        element = super().start(tag, attrs)
        if self.root is None:
            self.root = element
        if tag in self._tags:
            self._begun.append(self.line)
        return element

    def end(self, tag: Any) -> Element:
        self._depth -= 1
        element = super().end(tag)
        if tag in self._tags:
            self.finished.append((self._begun.pop(), element))
        return element


def read(stream: io.BufferedReader, name: str) -> Generator[tuple[int, Row], None, int]:
    """Read a MedQuAD file: yield (line, {id, source, url, focus, qtype, question, answer}), with white space collapsed.

    The answers were removed from three of the published folders; pairs without an answer are left out. Returns their
    number.
    """
    focus, skipped = "", 0
    for line, element, root in elements(stream, name, "Focus", "QAPair"):
        if element.tag == "Focus":
            focus = _text(element)
            continue
        question, answer = element.find("Question"), _text(element.find("Answer"))
        if not answer:
            skipped += 1
        elif question is None or not _text(question):
            yield line, BadRowError("an answer without a question")
        else:
            yield (
                line,
                {
                    "id": question.get("qid") or f"{root.get('id', '')}-{element.get('pid', '')}",
                    "source": root.get("source", ""),
                    "url": root.get("url", ""),
                    "focus": focus,
                    "qtype": question.get("qtype", ""),
                    "question": _text(question),
                    "answer": answer,
                },
            )
    return skipped


def _text(element: Element | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())
