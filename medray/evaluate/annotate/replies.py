"""Reading of a teacher's reply: its rationale, its answer, and whether the answer equals the label."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from medray.data import arithmetic
from medray.data.reasoning import split_reasoning
from medray.evaluate.annotate.items import Item
from medray.evaluate.judge.items import parts, same
from medray.evaluate.metrics.answers import bare
from medray.evaluate.words import normalised

Compare = Literal["accuracy", "exact_match", "equation", "list", "none"]
State = Literal["right", "wrong", "unparsed", "empty", "cut"]
STATES: tuple[State, ...] = ("right", "wrong", "unparsed", "empty", "cut")
_MARKUP = "*_`#"


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A reply as it was read.

    state: right or wrong (the answer equals the label or not), unparsed (no answer was found), empty (no text, or no
    rationale before the answer), or cut (by its limit of tokens). same_as: a form of the answer that is equal for equal
    answers.
    """

    state: State
    rationale: str = ""
    same_as: str = ""


def read_reply(text: str, finish_reason: str, item: Item, compare: Compare, marker: str) -> Read:
    """Return what a reply says about an item. marker: text before the answer; not used if nothing is compared."""
    if finish_reason == "length":
        return Read(state="cut")
    if not text.strip():
        return Read(state="empty")
    thought, said = split_reasoning(text) or ("", text.strip())
    found = split_answer(said, marker)
    if compare == "none":
        rationale = found[0] if found else said
        return Read(state="right", rationale=rationale) if rationale else Read(state="empty")
    if found is None or not found[1]:
        return Read(state="unparsed")
    rationale, answer = found[0] or thought, found[1]
    if not rationale:
        return Read(state="empty")
    form = _FORMS[compare](answer)
    if form is None:
        return Read(state="unparsed")
    return Read(
        state="right" if equal(answer, item.label, compare) else "wrong", rationale=rationale, same_as=form
    )


def split_answer(text: str, marker: str) -> tuple[str, str] | None:
    """Split a reply at the last occurrence of the marker into (rationale, answer); None if it has no marker.

    The answer is the rest of the line, or the next lines if that is empty, without emphasis and one final full stop.
    """
    places = list(re.finditer(re.escape(marker), text, re.IGNORECASE))
    if not places:
        return None
    before, after = text[: places[-1].start()], text[places[-1].end() :].strip(f" \t{_MARKUP}")
    line = after.strip().split("\n", 1)[0].strip()
    if after.strip().startswith(("[", "```")):  # a JSON list may have several lines
        line = after.strip()
    answer = line.strip(f" {_MARKUP}\t\n")
    answer = answer[:-1].rstrip() if answer.endswith(".") and not answer.endswith("..") else answer
    return before.rstrip(f" \t\n{_MARKUP}").strip(), answer.strip(_MARKUP)


def equal(answer: str, label: str, compare: Compare) -> bool:
    """Return whether an answer equals a label."""
    if compare == "equation":
        return arithmetic.equal(answer, label)
    if compare == "list":
        return same(answer, label)
    if compare == "exact_match":
        return bare(answer) == bare(label)
    return _plain(answer) == _plain(label)


def chosen_compare(asked: str, every: Iterable[Item]) -> Compare:
    """Return how `auto` compares the answers of these items; another word is returned unchanged."""
    if asked != "auto":
        return asked  # type: ignore[return-value]
    found = list(every)
    if found and all(item.is_list for item in found):
        return "list"
    if found and all(arithmetic.value(item.label) is not None for item in found):
        return "equation"
    return "accuracy"


def _plain(text: str) -> str:
    """Return a text as `accuracy` compares it, and without one final full stop, which an answer has lost too."""
    text = normalised(text).strip()
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _value(text: str) -> str | None:
    found = arithmetic.value(text)
    return None if found is None else str(found)


def _entries(text: str) -> str | None:
    return "\n".join(sorted(parts(text))) if text.lstrip().startswith("[") else None


_FORMS: dict[str, Callable[[str], str | None]] = {
    "accuracy": _plain,
    "exact_match": bare,
    "equation": _value,
    "list": _entries,
}
