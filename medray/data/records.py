"""Typed records, which `schemas` makes from the rows of every reader.

A row that cannot become a record is a BadRowError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# A rationale of a label. A mapping has one text per key (None: the document does not say).
Rationale = str | tuple[str, ...] | Mapping[str, str | None]


class BadRowError(ValueError):
    """A row that cannot be used and is left out. The message is the reason and contains no text of the row."""


class UselessRowError(BadRowError):
    """A row that is well-formed but teaches nothing. It is counted, but not as a bad row, so `data.max_rejects` ignores it."""


@dataclass(frozen=True)
class Origin:
    """The identity of a record: its id, which is unique within a split of a run, and where it comes from.

    group: its document or patient; records of one group stay in one split. lang: an ISO 639-1 code, or "".
    """

    id: str
    source: str
    group: str
    lang: str


@dataclass(frozen=True)
class Distill:
    """A record for distillation: an input with its label and, if there is one, the rationale for the label.

    entities: the true entities for the metric entity_f1, as ({"text", "assertion"}, …); None if the source has none.
    key_words: key words that a first model wrote for the input, see method.key_source.
    """

    origin: Origin
    input: str
    label: str
    rationale: Rationale | None = None
    entities: tuple[Mapping[str, Any], ...] | None = None
    key_words: str | None = None


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Instruction:
    """A record of one conversation: an optional system message, then turns of user and assistant in alternation.

    The last turn is the assistant's.
    """

    origin: Origin
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class TwoStep:
    """A record for two steps: the model writes key words for `first_input`, and then the label for `second_input`.

    rationale: the target of the first step. key_words: those that a first model wrote, see method.key_source.
    """

    origin: Origin
    first_input: str
    second_input: str
    label: str
    rationale: str | None = None
    key_words: str | None = None


@dataclass(frozen=True)
class Entity:
    """A mention of an entity in a document.

    text: its variants, first the one in the document. offsets: one or more [start, end) in characters of the document.
    """

    id: str
    type: str
    text: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Relation:
    """A relation between two entities. first, second: ids of the entities."""

    type: str
    first: str
    second: str


@dataclass(frozen=True)
class Extraction:
    """A record for extraction: a document with its gold entities and relations.

    passages: the parts of the document in order, such as title and abstract.
    """

    origin: Origin
    passages: tuple[str, ...]
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Preference:
    """A record for preference training: a prompt with a better (chosen) and a worse (rejected) answer.

    prompt: messages, the last of which is the user's.
    """

    origin: Origin
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Record = Distill | Instruction | TwoStep | Extraction | Preference


Row = dict[str, Any] | BadRowError


class Found(NamedTuple):
    """One row that a reader found in a file.

    position: where reading can resume at this row: a byte of the file, or the number of the row from 0 if the format
    is not read by bytes.
    line: the line on which the row begins, from 1, or the number of the row from 1 if there are no lines.
    file: the name of the original file; set in the converted format only.
    """

    position: int
    line: int
    row: Row
    file: str | None = None
