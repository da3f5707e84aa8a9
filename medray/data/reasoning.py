"""Reasoning before an answer: `<think>…</think>` at the start of a text, or a separate key of its message.

Templates that support reasoning write it with their own marks, such as `<think>`, `[THINK]` or a channel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medray.data.encode.templates import Template, UnfitMessagesError

OPEN, CLOSE = "<think>", "</think>"
FIELDS = ("reasoning_content", "reasoning", "thinking")  # keys of a message that templates use for reasoning
_THOUGHT = re.compile(rf"\s*{OPEN}(?P<reasoning>.*?){CLOSE}(?P<answer>.*)", re.DOTALL)
_MARKS = ("\u2402thought\u2403", "\u2402answer\u2403")  # placeholders for texts while a template is analysed
_QUESTION = [("user", "?")]


def with_reasoning(reasoning: str, answer: str) -> str:
    """Join reasoning and answer to one text, as templates join `reasoning_content` and `content` of a message."""
    return f"{OPEN}\n{reasoning.strip()}\n{CLOSE}\n\n{answer}"


def split_reasoning(text: str) -> tuple[str, str] | None:
    """Split a text that begins with a block of reasoning into (reasoning, answer), both stripped.

    Return None for other texts.
    """
    found = _THOUGHT.fullmatch(text) if CLOSE in text else None
    return None if found is None else (found["reasoning"].strip(), found["answer"].strip())


def answer_only(text: str, *, opened: bool = False) -> str:
    """Return a text without the reasoning that it may begin with.

    opened: whether the opening mark may be missing, because the prompt already ended with it.
    """
    if opened and CLOSE in text and not text.lstrip().startswith(OPEN):
        text = OPEN + text
    split = split_reasoning(text)
    return text if split is None else split[1]


@dataclass(frozen=True)
class Reasoning:
    """The way in which a template's thinking mode writes an answer with reasoning.

    field: key of the message that contains the reasoning; None: it is in the content. end: text after the answer. ask:
    the prompt for generation after a question of one character.
    """

    template: Template
    field: str | None
    end: str
    ask: str

    @classmethod
    def of(cls, template: Template) -> Reasoning | None:
        """Find out how a template writes reasoning.

        Return None if it cannot show reasoning after the prompt for generation.
        """
        thought, said = _MARKS
        try:
            ask = template.render(_QUESTION, ask=True, thinking=True)
        except UnfitMessagesError:
            return None
        fields = _fields(template)
        for field in fields or (None,):
            try:
                text = _reasoned(template, thought, said, field)
            except UnfitMessagesError:
                continue
            written = text[len(ask) :]
            if text.startswith(ask) and [written.count(mark) for mark in (thought, said)] == [1, 1]:
                return cls(template, field, written[written.index(said) + len(said) :], ask)
        return None

    @property
    def marks(self) -> list[str]:
        """Return the texts that the template writes before the reasoning, and between reasoning and answer."""
        return re.split("|".join(_MARKS), self.written(*_MARKS))[:2]

    def written(self, reasoning: str, answer: str) -> str:
        """Return the text that a model must write in thinking mode after the template's prompt."""
        text = _reasoned(self.template, reasoning, answer, self.field)
        return text[len(self.ask) : len(text) - len(self.end)]


def _reasoned(template: Template, reasoning: str, answer: str, field: str | None) -> str:
    if field is not None:
        return template.render(
            [*_QUESTION, ("assistant", answer)], thinking=True, reasoning=reasoning, field=field
        )
    return template.render([*_QUESTION, ("assistant", with_reasoning(reasoning, answer))], thinking=True)


def _fields(template: Template) -> tuple[str, ...]:
    """Return the keys of a message that a template shows as reasoning."""
    thought, said = _MARKS
    found = []
    for field in FIELDS:
        try:
            if thought in _reasoned(template, thought, said, field):
                found.append(field)
        except UnfitMessagesError:
            continue
    return tuple(found)


def knows_reasoning(template: Template) -> bool:
    """Return whether a template treats reasoning specially. Other templates show `<think>` like any text."""
    if template.legacy:
        return False
    thought, said = _MARKS
    if _fields(template):
        return True
    try:
        asks = {template.render(_QUESTION, ask=True, thinking=thinking) for thinking in (False, True)}
        inline = with_reasoning(thought, said)
        earlier = [*_QUESTION, ("assistant", inline), *_QUESTION]
        shown = [
            template.render(messages, thinking=True)
            for messages in ([*_QUESTION, ("assistant", inline)], earlier)
        ]
    except UnfitMessagesError:
        return False
    return len(asks) > 1 or any(inline not in text for text in shown) or shown[0].count(OPEN) > 1


def drops_earlier_reasoning(template: Template) -> bool | None:
    """Return whether a template leaves out the reasoning of earlier answers, in training and at inference.

    Returns None if it shows such reasoning in another form than in the last answer.
    """
    thought, said = _MARKS
    inline = with_reasoning(thought, said)
    turns = [*_QUESTION, ("assistant", said), *_QUESTION]
    try:
        text = template.render([*_QUESTION, ("assistant", inline), *_QUESTION], ask=True, thinking=True)
        shown = [
            template.render(turns, ask=True, thinking=True, reasoning=thought, field=field)
            for field in _fields(template)[:1]
        ]
    except UnfitMessagesError:  # it cannot show a second question, so there is no earlier answer
        return False
    for named in shown:
        if thought not in named:
            return True
        return False if named == text and inline in text else None
    return thought not in text
