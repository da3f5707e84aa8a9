"""Wrong answers to an extraction, each with one named error, made by rule from a gold answer.

An answer is a list of items: `(text,)` of an entity, `(first, second)` of a relation. A corruption returns the changed
list, or None where the document gives it nothing to work on. All draws come from the generator that is passed in, so
the same seed gives the same answers on any machine.

    drop       leave one item out; at least one other remains
    add        a span of the same text that is no gold item
    shift      one word more or less at an end of an entity
    swap       the arguments of a relation in the wrong order
    type       an entity, or a pair, of a type that was not asked for
    duplicate  one item twice
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from medray.data.records import Extraction

Item = tuple[str, ...]
Items = list[Item]

_WORD = re.compile(r"\w[\w-]*")
_SHORTEST_WORD = 4  # characters of a word that an added span may begin or end with: no "and", no "the"
_LONGEST_SPAN = 3  # words of an added span


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The question to a document, and the gold answer.

    types: of entities or relations; () is all. items: the gold answer, each item once.
    """

    document: Extraction
    answer: Literal["entities", "relations"]
    types: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def text(self) -> str:
        return " ".join(self.document.passages)


Corruption = Callable[[Task, random.Random], Items | None]


def drop(task: Task, draw: random.Random) -> Items | None:
    if len(task.items) < 2:
        return None
    left_out = draw.randrange(len(task.items))
    return [item for number, item in enumerate(task.items) if number != left_out]


def duplicate(task: Task, draw: random.Random) -> Items | None:
    if not task.items:
        return None
    made = list(task.items)
    made.insert(draw.randrange(len(made) + 1), draw.choice(task.items))
    return made


def add(task: Task, draw: random.Random) -> Items | None:
    spans = _other_spans(task)
    if not spans:
        return None
    if task.answer == "entities":
        wrong: Item = (draw.choice(spans),)
    elif task.items:
        wrong = (draw.choice(task.items)[0], draw.choice(spans))
    else:
        return None
    made = list(task.items)
    made.insert(draw.randrange(len(made) + 1), wrong)
    return made


def shift(task: Task, draw: random.Random) -> Items | None:
    """Add or remove one word at one end of one entity, as the text has it."""
    candidates = [
        (number, (*item[:part], moved, *item[part + 1 :]))
        for number, item in enumerate(task.items)
        for part, text in enumerate(item)
        for moved in _shifted(text, task.text)
    ]
    return _one_changed(task, candidates, draw)


def swap(task: Task, draw: random.Random) -> Items | None:
    candidates = [(number, item[::-1]) for number, item in enumerate(task.items) if len(item) == 2]
    return _one_changed(task, candidates, draw)


def wrong_type(task: Task, draw: random.Random) -> Items | None:
    """Replace one gold item by an entity or a pair of a type that was not asked for."""
    known = _folded(task.items)
    names = {entity.id: entity.text[0] for entity in task.document.entities if entity.text}
    if task.answer == "entities":
        others: list[Item] = [
            (names[entity.id],)
            for entity in task.document.entities
            if entity.id in names and task.types and entity.type not in task.types
        ]
    else:
        others = [
            (names[relation.first], names[relation.second])
            for relation in task.document.relations
            if {relation.first, relation.second} <= names.keys()
            and task.types
            and relation.type not in task.types
        ]
    others = sorted({item for item in others if _fold(item) not in known})
    if not others or not task.items:
        return None
    return _with(task.items, draw.randrange(len(task.items)), draw.choice(others))


CORRUPTIONS: dict[str, Corruption] = {
    "drop": drop,
    "add": add,
    "shift": shift,
    "swap": swap,
    "type": wrong_type,
    "duplicate": duplicate,
}


def _one_changed(task: Task, candidates: Sequence[tuple[int, Item]], draw: random.Random) -> Items | None:
    """Return the answer with one candidate (number of a gold item, new item) that is no gold item itself."""
    known = _folded(task.items)
    wrong = [(number, item) for number, item in candidates if _fold(item) not in known]
    if not wrong:
        return None
    number, item = draw.choice(wrong)
    return _with(task.items, number, item)


def _with(items: Sequence[Item], number: int, item: Item) -> Items:
    return [*items[:number], item, *items[number + 1 :]]


def _fold(item: Item) -> Item:
    return tuple(part.casefold() for part in item)


def _folded(items: Sequence[Item]) -> set[Item]:
    return {_fold(item) for item in items}


def _other_spans(task: Task) -> list[str]:
    """Spans of one to three words that touch no entity of the document, in the order of the text."""
    text = task.text
    gold = [text_of.casefold() for entity in task.document.entities for text_of in entity.text]
    words = list(_WORD.finditer(text))
    spans = []
    for first in range(len(words)):
        for count in range(1, _LONGEST_SPAN + 1):
            run = words[first : first + count]
            if len(run) < count:
                break
            span = text[run[0].start() : run[-1].end()]
            ends = (run[0][0], run[-1][0])
            if any(len(end) < _SHORTEST_WORD or not end[0].isalpha() for end in ends) or "." in span:
                continue
            folded = span.casefold()
            if not any(folded in name or name in folded for name in gold):
                spans.append(span)
    return list(dict.fromkeys(spans))


def _shifted(entity: str, text: str) -> list[str]:
    """The entity with one word less at an end, and with the word before or after it in the text."""
    found = []
    words = list(_WORD.finditer(entity))
    if len(words) > 1:
        found += [entity[words[1].start() :], entity[: words[-2].end()]]
    at = text.find(entity)
    if at >= 0:
        before = re.search(r"(\w[\w-]*) $", text[:at])
        after = re.match(r" (\w[\w-]*)", text[at + len(entity) :])
        found += [f"{before[1]} {entity}"] if before else []
        found += [f"{entity} {after[1]}"] if after else []
    return [each for each in found if each and each != entity]
