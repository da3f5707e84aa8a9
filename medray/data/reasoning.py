"""Reasoning before an answer: `<think>…</think>` at the start of a text, as reasoning models write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medray.data.templates import Template, UnfitMessagesError

OPEN, CLOSE = "<think>", "</think>"
_THOUGHT = re.compile(rf"\s*(?:{OPEN})?(?P<reasoning>.*?){CLOSE}(?P<answer>.*)", re.DOTALL)
_MARKS = ("\u2402thought\u2403", "\u2402answer\u2403")  # stand for texts while a template is looked at
_QUESTION = [("user", "?")]


def with_reasoning(reasoning: str, answer: str) -> str:
    """Return one text of both, as a message's `reasoning_content` and `content` are joined."""
    return f"{OPEN}\n{reasoning.strip()}\n{CLOSE}\n\n{answer}"


def split_reasoning(text: str) -> tuple[str, str] | None:
    """Return (reasoning, answer), both stripped, of a text that begins with reasoning; None for any other."""
    found = _THOUGHT.fullmatch(text) if CLOSE in text else None
    return None if found is None else (found["reasoning"].strip(), found["answer"].strip())


def answer_only(text: str) -> str:
    """Return the answer of a text, without the reasoning that it may begin with."""
    split = split_reasoning(text)
    return text if split is None else split[1]


@dataclass(frozen=True)
class Reasoning:
    """How a template's thinking mode writes an answer with reasoning.

    named: the reasoning is given as `reasoning_content`; else in the content. end: what follows the answer. ask: what
    generation starts from after a question of one character.
    """

    template: Template
    named: bool
    end: str
    ask: str

    @classmethod
    def of(cls, template: Template) -> Reasoning | None:
        """Return the way of a template; None where it cannot show reasoning."""
        thought, said = _MARKS
        ask = template.render(_QUESTION, ask=True, thinking=True)
        for named in (True, False):
            try:
                text = _reasoned(template, thought, said, named)
            except UnfitMessagesError:
                continue
            written = text[len(ask) :]
            if text.startswith(ask) and [written.count(mark) for mark in (thought, said)] == [1, 1]:
                return cls(template, named, written[written.index(said) + len(said) :], ask)
        return None

    def written(self, reasoning: str, answer: str) -> str:
        """Return the text that a model writes after the template's question in thinking mode."""
        text = _reasoned(self.template, reasoning, answer, self.named)
        return text[len(self.ask) : len(text) - len(self.end)]


def _reasoned(template: Template, reasoning: str, answer: str, named: bool) -> str:
    if named:
        return template.render([*_QUESTION, ("assistant", answer)], thinking=True, reasoning=reasoning)
    return template.render([*_QUESTION, ("assistant", with_reasoning(reasoning, answer))], thinking=True)


def knows_reasoning(template: Template) -> bool:
    """Whether a template does anything with reasoning; one that does not shows `<think>` as any other text."""
    if template.legacy:
        return False
    thought, said = _MARKS
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


def drops_earlier_reasoning(template: Template) -> bool:
    """Whether a template leaves out the reasoning of earlier answers, as it then does at inference."""
    thought, said = _MARKS
    turns = [*_QUESTION, ("assistant", with_reasoning(thought, said)), *_QUESTION]
    return thought not in template.render(turns, ask=True, thinking=True)
