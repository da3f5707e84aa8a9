"""Parsers that split a teacher's completion into rationale and label, as in the code of Distilling Step-by-Step.

Completions continue with the next question and are cut there. A completion that fits no rule is a failure: it has a
blank label and usually a blank rationale, and the row is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Taught(NamedTuple):
    """The rationale and label in a completion. A blank text, " " or "", means that it was not found."""

    rationale: str
    label: str


_NEITHER = Taught(" ", " ")


def parser(corpus: str, teacher: str) -> Callable[[str], Taught] | None:
    """Return the parser for a corpus and a teacher (palm, gpt), or None if there is none."""
    return _PARSERS.get((corpus, teacher))


def _cqa(completion: str) -> Taught:
    return _choice(completion.split("Q:")[0].rstrip())


def _cqa_gpt(completion: str) -> Taught:
    whole = completion.split("Q:")[0].strip()
    return _choice(whole) if len(whole.split("So the answer is")) == 2 else _NEITHER


def _choice(whole: str) -> Taught:
    """Parse a choice. The label follows the letter of the choice."""
    rationale, *rest = whole.split("So the answer is")
    found = re.split(r"\(.\)", rest[0]) if len(rest) == 1 else []
    label = found[1].strip() if len(found) > 1 else ""
    return Taught(rationale.rstrip(), (label if not label.endswith(".") else label[:-1]) if label else " ")


def _equation(completion: str) -> Taught:
    parts = completion.split("Q:")[0].rstrip().split("The answer is")
    if len(parts) != 2:
        return _NEITHER
    found = re.search(r"\(.*\)", parts[1])
    return Taught(parts[0].rstrip(), found[0] if found else " ")


def _equation_gpt(completion: str) -> Taught:
    return _equation(completion.split("Q:")[0].lstrip())


def _esnli(completion: str) -> Taught:
    found = completion.split("Answer: ")
    label = found[1].split("Premise")[0].rstrip() if len(found) > 1 else ""
    return Taught(completion.split("Answer:")[0].rstrip(), label or " ")


def _esnli_gpt(completion: str) -> Taught:
    rationale, label = _esnli(completion)
    return Taught(rationale.lstrip(), label)


def _anli(completion: str) -> Taught:
    return _verdict(completion.split("Premise:")[0].rstrip(), ("So the answer is",))


def _anli_gpt(completion: str) -> Taught:
    return _verdict(completion.split("Premise:")[0].strip(), ("So the answer is", "The answer is"))


def _verdict(whole: str, markers: tuple[str, ...]) -> Taught:
    """Parse a verdict. The last character of the label is dropped, even if it is not a full stop."""
    for marker in markers:
        parts = whole.split(marker)
        if len(parts) == 2:
            return Taught(parts[0].rstrip(), parts[1].lstrip()[:-1])
    return Taught("", "")


_PARSERS: dict[tuple[str, str], Callable[[str], Taught]] = {
    ("cqa", "palm"): _cqa,
    ("cqa", "gpt"): _cqa_gpt,
    ("svamp", "palm"): _equation,
    ("svamp", "gpt"): _equation_gpt,
    ("asdiv", "palm"): _equation,
    ("esnli", "palm"): _esnli,
    ("esnli", "gpt"): _esnli_gpt,
    ("anli1", "palm"): _anli,
    ("anli1", "gpt"): _anli_gpt,
}
