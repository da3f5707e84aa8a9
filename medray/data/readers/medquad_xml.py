"""MedQuAD's XML: a document of questions and answers on one focus."""

from __future__ import annotations

import io
from collections.abc import Generator
from xml.etree.ElementTree import Element

from medray.data.readers.found import Row
from medray.data.readers.xml_elements import elements
from medray.data.records import BadRowError


def read(stream: io.BufferedReader, name: str) -> Generator[tuple[int, Row], None, int]:
    """(line, {id, source, url, focus, qtype, question, answer}) of each pair, white space collapsed.

    Three of the published folders had their answers removed: pairs without one are left out, and their number is
    what the generator returns.
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
