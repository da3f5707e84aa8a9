"""Prompts with examples, from one template: the task, the number of examples, the examples, and the text to answer."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from medray.config.icl import Order, Strategy
from medray.data.records import Message
from medray.icl.documents import Document, as_json
from medray.icl.selection.exclusion import Exclusion

Count = Callable[[Sequence[Message]], int]  # the length of a prompt in tokens of the model


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """The parts of a prompt. It is stored with the run.

    `{count}`, `{number}`, `{text}` and `{answer}` are replaced. announcement: the line before the examples; an empty
    text leaves it out.
    """

    statement: str
    announcement: str = "Here are {count} examples."
    one_announced: str = "Here is 1 example."
    example: str = "Example {number}\nText: {text}\nAnswer: {answer}"
    question: str = "Text: {text}\nAnswer:"

    def to_json(self) -> str:
        """Return the template as the text of its file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    def messages(self, text: str, examples: Sequence[Document], *, as_turns: bool) -> tuple[Message, ...]:
        """Return the prompt that asks for the answer of `text`, with examples in the order in which they are shown.

        as_turns: whether an example is a question of the user and an answer of the assistant. The task is then in the
        first question.
        """
        if as_turns:
            turns = []
            for at, example in enumerate(examples):
                turns.append(Message("user", self._turn(example.text, first=not at)))
                turns.append(Message("assistant", as_json(example.answer)))
            return (*turns, Message("user", self._turn(text, first=not examples)))
        parts = [f"{self.statement}."] if self.statement else []
        if examples:
            said = self.one_announced if len(examples) == 1 else self.announcement
            parts += [said.replace("{count}", str(len(examples)))] if said else []
        for number, example in enumerate(examples, 1):
            values = {"number": str(number), "text": example.text, "answer": as_json(example.answer)}
            parts.append(_filled(self.example, values))
        parts.append(_filled(self.question, {"text": text}))
        return (Message("user", "\n\n".join(parts)),)

    def _turn(self, text: str, *, first: bool) -> str:
        question = _filled(self.question, {"text": text})
        return f"{self.statement}.\n\n{question}" if first and self.statement else question


@dataclass(frozen=True, kw_only=True, slots=True)
class Shots:
    """The examples of a prompt: how many are asked for, who chooses them, and how they are shown."""

    strategy: Strategy
    count: int
    order: Order
    as_turns: bool
    max_tokens: int | None

    @property
    def name(self) -> str:
        """Return the name of these prompts in file names."""
        return shots_name(self.strategy, self.count)


def shots_name(strategy: Strategy, count: int) -> str:
    """Return the name of prompts with `count` examples: zero, or retrieved-5."""
    return f"{strategy}-{count}" if count else "zero"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt for one document.

    shown: ids of the examples, best first, whatever the order in which they are shown. dropped: number of examples that
    the token budget left out. tokens: None if nothing was counted. too_long: whether it is over the budget even without
    examples.
    """

    id: str
    messages: tuple[Message, ...]
    shown: tuple[str, ...]
    dropped: int
    tokens: int | None
    too_long: bool


def prompt(
    document: Document,
    best_first: Sequence[Document],
    template: PromptTemplate,
    shots: Shots,
    count: Count | None,
) -> Prompt:
    """Return the prompt of a document. best_first: its examples. count: needed if the shots have a token budget.

    The worst example is dropped until the prompt is within the budget.
    """
    kept = list(best_first[: shots.count])
    asked = len(kept)
    while True:
        shown = kept if shots.order == "best_first" else kept[::-1]
        messages = template.messages(document.text, shown, as_turns=shots.as_turns)
        tokens = None if count is None else count(messages)
        over = shots.max_tokens is not None and tokens is not None and tokens > shots.max_tokens
        if not over or not kept:
            return Prompt(
                id=document.id,
                messages=messages,
                shown=tuple(example.id for example in kept),
                dropped=asked - len(kept),
                tokens=tokens,
                too_long=over,
            )
        kept.pop()


def drawn(
    strategy: Strategy,
    test: Sequence[Document],
    train: Sequence[Document],
    count: int,
    exclusion: Exclusion,
    seed: int,
) -> dict[str, list[Document]]:
    """Return `count` examples of each test document, drawn at random; fewer if there are fewer.

    random: drawn for each document, by the seed and its id. static: the same for all documents, drawn once.
    """
    everyone = range(len(test))
    if strategy == "static":
        chosen: list[Document] = []
        for row in _order(seed, "static", len(train)):
            if len(chosen) == count:
                break
            if not any(exclusion(at, row) for at in everyone):
                chosen.append(train[row])
        return {document.id: chosen for document in test}
    made = {}
    for at, document in enumerate(test):
        rows: list[int] = []
        for row in _order(seed, document.id, len(train)):
            if len(rows) == count:
                break
            if not exclusion(at, row):
                rows.append(row)
        made[document.id] = [train[row] for row in rows]
    return made


def retrieved(
    ids: Mapping[str, Sequence[str]], test: Sequence[Document], train: Sequence[Document]
) -> dict[str, list[Document]]:
    """Return the selected examples of each test document, best first. ids: training documents by test document."""
    known = {document.id: document for document in train}
    return {document.id: [known[name] for name in ids[document.id]] for document in test}


def _order(seed: int, name: str, count: int) -> Iterator[int]:
    """Yield the rows from 0 to `count` in an order that depends on the seed and the name only."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    draw, seen = random.Random(int.from_bytes(digest)), set[int]()
    while len(seen) < count:  # few rows of many are read, so the others are not drawn
        row = draw.randrange(count)
        if row not in seen:
            seen.add(row)
            yield row


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Return a part of the template with its values. A value that contains {text} is not filled again."""
    parts: list[str] = []
    rest = text
    while True:
        found = [(rest.find(f"{{{name}}}"), name) for name in values]
        at, name = min(((at, name) for at, name in found if at >= 0), default=(-1, ""))
        if at < 0:
            return "".join([*parts, rest])
        parts += [rest[:at], values[name]]
        rest = rest[at + len(name) + 2 :]
