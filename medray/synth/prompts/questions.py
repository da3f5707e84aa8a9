"""Replies to opening questions: cleaning, answer styles, and the removal of near-duplicates.

The text of a reply is used as it was decoded from JSON. No escapes are interpreted: `\\times` stays `\\times`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medray.synth.draws import Draws
from medray.synth.lists.values import StyleTitle
from medray.synth.prompts.grid import PromptRequest
from medray.synth.prompts.wording import SEPARATOR

LANGUAGE_TITLE = 4
EMERGENCY = "EM"
EMERGENCY_CHANCE = 0.5
EMERGENCY_OPTION = "This is an emergency: highlight the steps that must be taken at once."
_NUMBER = re.compile(r"\A\s*(?:question\s*)?\d{1,2}\s*[.):]\s+", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "„": "“", "‘": "’"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One opening question.

    style: such as 2E, or EM; None in parts 1 and 2. country: of the patient; None in parts 1 and 2, where the chat draws
    one. speaker: who asks.
    """

    id: str
    prompt: str
    part: int
    context: str | Sequence[Any]
    speaker: str
    country: str | None = None
    style: str | None = None
    setting: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = ("id", "prompt", "context", "part", "speaker", "country", "style", "setting")


class UnusableReplyError(Exception):
    """A reply that does not contain the expected questions. The message is a reason for counts, without its text."""


def texts_of(request: PromptRequest, reply: str, *, strip_quotes: bool) -> list[str]:
    """Return the questions in a reply, one for each of the request's ids. Raises UnusableReplyError."""
    wanted = len(request.question_ids)
    pieces = re.split(rf"{SEPARATOR}+", reply) if request.part == 3 else [reply]
    found = [text for text in (cleaned(piece, strip_quotes=strip_quotes) for piece in pieces) if text]
    if not found:
        raise UnusableReplyError("empty")
    if len(found) != wanted:
        raise UnusableReplyError("wrong number of questions")
    return found


def cleaned(text: str, *, strip_quotes: bool) -> str:
    """Return a question without its number, the markers of bold text, and, if wanted, enclosing quotation marks."""
    text = _BOLD.sub(r"\1", text.strip()).strip()
    text = _NUMBER.sub("", text).strip()
    if strip_quotes and len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        inner = text[1:-1]
        if text[0] not in inner and text[-1] not in inner:
            text = inner.strip()
    return text


def questions_of(request: PromptRequest, reply: str, *, strip_quotes: bool) -> list[Question]:
    """Return the questions of a reply without answer styles; part 3 keeps `id` without style and country."""
    countries: list[str | None] = [patient.country for patient in request.patients]
    countries = countries or [None] * len(request.question_ids)
    return [
        Question(
            id=name,
            prompt=text,
            part=request.part,
            context=request.context,
            speaker=request.speaker,
            country=country,
            setting=request.setting,
        )
        for name, text, country in zip(
            request.question_ids, texts_of(request, reply, strip_quotes=strip_quotes), countries, strict=True
        )
    ]


def styled(question: Question, styles: Sequence[StyleTitle], seed: int) -> list[Question]:
    """Return a question of part 3 with two answer styles of different titles, or with the emergency style alone.

    The published questions had this proportion: half of those that contain "emergency" have one row instead of two.
    """
    draws = Draws(seed, "style", question.id)
    lower = question.prompt.lower()
    if "emergency" in lower and draws.chance(EMERGENCY_CHANCE):
        return [_with_option(question, EMERGENCY, EMERGENCY_OPTION)]
    left = [each for each in styles if each.number != LANGUAGE_TITLE or "translate" not in lower]
    rows = []
    for _ in range(2):
        title = draws.weighted(left, [each.weight for each in left])
        left = [each for each in left if each is not title]
        option = draws.index(len(title.options))
        rows.append(_with_option(question, f"{title.number}{chr(ord('A') + option)}", title.options[option]))
    return rows


def _with_option(question: Question, style: str, option: str) -> Question:
    return Question(
        id=f"{question.id}-{style}-{question.country}",
        prompt=f"{question.prompt}\n{option}",
        part=question.part,
        context=question.context,
        speaker=question.speaker,
        country=question.country,
        style=style,
        setting=question.setting,
    )


@dataclass(frozen=True, slots=True)
class Parsed:
    """The result of parsing: questions in the order of the requests, and what was dropped, by reason."""

    questions: list[Question]
    dropped: dict[str, int]
    bases: int  # questions before styles, without near-duplicates
    read: int  # questions before the search for near-duplicates


def parse(
    requests: Iterable[PromptRequest],
    replies: Mapping[str, str],
    styles: Sequence[StyleTitle],
    seed: int,
    *,
    strip_quotes: bool = True,
    near_duplicates: float | None = None,
) -> Parsed:
    """Return the questions of all replies. replies: text by the id of its request; a missing reply is counted.

    near_duplicates: similarity from which a question is dropped for an earlier one.
    """
    dropped: dict[str, int] = {}
    bases: list[Question] = []
    for request in requests:
        try:
            if request.id not in replies:
                raise UnusableReplyError("no reply")
            bases += questions_of(request, replies[request.id], strip_quotes=strip_quotes)
        except UnusableReplyError as error:
            dropped[str(error)] = dropped.get(str(error), 0) + 1
    kept = bases if near_duplicates is None else list(_first_ones(bases, near_duplicates))
    if len(kept) < len(bases):
        dropped["near-duplicate"] = len(bases) - len(kept)
    rows = [row for base in kept for row in (styled(base, styles, seed) if base.part == 3 else [base])]
    return Parsed(rows, dropped, len(kept), len(bases))


def _first_ones(questions: Sequence[Question], threshold: float) -> Iterator[Question]:
    from medray.data.inspect.near_duplicates import earlier_likes

    likes = earlier_likes(((question.id, question.prompt) for question in questions), threshold)
    return (question for question, like in zip(questions, likes, strict=True) if like is None)
