"""Typed records, which `schemas` makes from the rows of every reader. A row that cannot become one is a BadRowError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# A rationale of a label. A mapping has one text per key (None: the document does not say).
Rationale = str | tuple[str, ...] | Mapping[str, str | None]


class BadRowError(ValueError):
    """A row that is left out. The message is the reason and contains no text of the row."""


class UselessRowError(BadRowError):
    """A row that is well-formed but teaches nothing. It is counted, but not as a bad row, so `data.max_rejects` ignores it."""


@dataclass(frozen=True)
class Origin:
    """The identity of a record. group: its document or patient; records of one group stay in one split.

    The id is unique within a run's split. lang: an ISO 639-1 code, or "".
    """

    id: str
    source: str
    group: str
    lang: str


@dataclass(frozen=True)
class Distill:
    """An input with its label and, if there is one, the rationale for the label.

    entities: the truth for entity_f1 as ({"text", "assertion"}, …); None if the source has none.
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
    """A conversation: an optional system message, then alternating turns of user and assistant; the assistant's is last."""

    origin: Origin
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class TwoStep:
    """A record for two steps: key words from `first_input` (the target is the rationale), then the label from `second_input`."""

    origin: Origin
    first_input: str
    second_input: str
    label: str
    rationale: str | None = None


@dataclass(frozen=True)
class Entity:
    """A mention. text: its variants, first the one in the document. offsets: one or more [start, end) in the document."""

    id: str
    type: str
    text: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Relation:
    """A relation. first, second: ids of entities."""

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
    """A prompt (messages of which the user's is last) with a better and a worse answer."""

    origin: Origin
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Record = Distill | Instruction | TwoStep | Extraction | Preference


Row = dict[str, Any] | BadRowError


class Found(NamedTuple):
    """One row of a file.

    position: where reading resumes at this row: a byte of the file, or the number of the row from 0 if the format is not
    read by bytes.
    line: the line on which the row begins, from 1, or the number of the row from 1 if there are no lines.
    file: the name of the original file, in the converted format only.
    """

    position: int
    line: int
    row: Row
    file: str | None = None
