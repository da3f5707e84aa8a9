"""Typed records: what every reader's rows become. `forms` makes them; a row that cannot become one is a BadRowError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# What may be written beside a label. A mapping has a text a key (None: the document does not say).
Rationale = str | tuple[str, ...] | Mapping[str, str | None]


class BadRowError(ValueError):
    """A row that is left out; the message is the reason and holds no text of the row."""


@dataclass(frozen=True)
class Origin:
    """What every record knows of itself. group: of the document or patient; records of one group stay in one split.

    id is unique within a run's split. lang: an ISO 639-1 code, or "".
    """

    id: str
    source: str
    group: str
    lang: str


@dataclass(frozen=True)
class Distill:
    """An input with the label to be written and, where there is one, the rationale for it.

    entities: the truth of entity_f1 as ({"text", "assertion"}, …); None where the source has none.
    """

    origin: Origin
    input: str
    label: str
    rationale: Rationale | None = None
    entities: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Instruction:
    """A conversation: an optional system message, then turns of user and assistant, the last one the assistant's."""

    origin: Origin
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class TwoStep:
    """First key words from `first_input` (its target: the rationale), then the label from `second_input`."""

    origin: Origin
    first_input: str
    second_input: str
    label: str
    rationale: str | None = None


@dataclass(frozen=True)
class Entity:
    """A mention. text: its variants, the first as it stands. offsets: [start, end) in the document, may be several."""

    id: str
    type: str
    text: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Relation:
    """first, second: ids of entities."""

    type: str
    first: str
    second: str


@dataclass(frozen=True)
class Extraction:
    """A document with its gold entities and relations. passages: its parts in order, such as title and abstract."""

    origin: Origin
    passages: tuple[str, ...]
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Preference:
    """A prompt (messages that end with the user's) with a better and a worse answer."""

    origin: Origin
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Record = Distill | Instruction | TwoStep | Extraction | Preference


Row = dict[str, Any] | BadRowError


class Found(NamedTuple):
    """One row of a file.

    position: where reading goes on at this row: a byte of the file; the number of the row, from 0, where the format
    is not read by bytes.
    line: the line on which the row begins, from 1; the number of the row, from 1, where there are no lines.
    file: the original file's name, in the converted format alone.
    """

    position: int
    line: int
    row: Row
    file: str | None = None
