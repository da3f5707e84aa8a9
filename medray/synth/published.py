"""Reading of published files at every step: questions, situations, chats and replies to requests for questions.

An id tells the part: `20-N` is part 1, `TASK-SUBTOPIC` part 2, and `A-N-STYLE-COUNTRY` part 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from medray import storage
from medray.errors import InputError
from medray.synth.chat.situations import Situation
from medray.synth.lists.values import Lists
from medray.synth.prompts.grid import PART_1_TASK, PHYSICIAN, contexts, speaker_of
from medray.synth.prompts.questions import EMERGENCY, LANGUAGE_TITLE, Question

LARGEST = 4 << 30
_FIX = "use a published file of this kind, or one that medray wrote"
_PART_3 = re.compile(r"[A-Z]-\d+-(?:\d{1,2}[A-Z]|EM)-", re.ASCII)


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat in progress: its id, and its messages as (role, text) with the roles user and chatbot."""

    id: str
    messages: tuple[tuple[str, str], ...]


def part_of(name: str) -> int:
    """Return the part that an id belongs to."""
    if _PART_3.match(name):
        return 3
    return 1 if name.startswith(f"{PART_1_TASK}-") else 2


def question_of(name: str, prompt: str, context: Any, lists: Lists) -> Question:
    """Return a question of a published file, with what its id and context tell."""
    part = part_of(name)
    style = country = None
    if part == 3:
        _, _, style, country = name.split("-", 3)  # a country may contain "-"
    return Question(
        id=name,
        prompt=prompt,
        part=part,
        context=context if context is not None else "",
        speaker=_speaker(part, name, context, lists),
        country=country,
        style=style,
    )


def _speaker(part: int, name: str, context: Any, lists: Lists) -> str:
    if part == 1 and isinstance(context, str):
        for profession in lists.professions:  # the names may contain commas, so known ones come first
            for specialty in profession.specialties:
                if context.startswith(f"{profession.name}, {specialty}, "):
                    return speaker_of(profession.name, specialty)
        pieces = [piece.strip() for piece in context.split(",")]
        return speaker_of(pieces[0], pieces[1]) if len(pieces) >= 3 else PHYSICIAN
    if part == 3:
        rows = contexts(lists)
        row = rows[int(name.split("-")[1]) % len(rows)]
        if isinstance(context, list | tuple) and len(context) == 4 and context[3] != row.label:
            row = next((each for each in rows if each.label == context[3]), row)
        return speaker_of(row.profession, row.specialty)
    return PHYSICIAN


def questions(file: Path, lists: Lists) -> Iterator[Question]:
    """Yield the questions of a list of {id, prompt, context}, or of JSON lines."""
    for where, row in rows(file):
        name, prompt = row.get("id"), row.get("prompt")
        if not isinstance(name, str) or not isinstance(prompt, str) or not prompt.strip():
            raise InputError("is not an opening question", file=where, fix=_FIX)
        made = question_of(name, prompt, row.get("context"), lists)
        if isinstance(row.get("speaker"), str):  # a file of medray
            made = Question(
                id=name,
                prompt=prompt,
                part=made.part,
                context=made.context,
                speaker=row["speaker"],
                country=row.get("country"),
                style=row.get("style"),
                setting=row.get("setting"),
            )
        yield made


def situations(file: Path, lists: Lists) -> Iterator[Situation]:
    """Yield the situations of a published file. Country, style and language follow from the id where they are absent."""
    for where, row in rows(file):
        try:
            if part_of(str(row["id"])) == 3 and not row.get("country"):
                _, _, style, country = row["id"].split("-", 3)
                row = {**row, "country": country, "style": style, "language": _language(style, lists)}
            found = Situation.of_json(row)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise InputError("is not a situation", file=where, fix=_FIX) from None
        yield found


def _language(style: str, lists: Lists) -> str | None:
    if style == EMERGENCY:
        return None
    title = next((each for each in lists.styles if str(each.number) == style[:-1]), None)
    return title.languages.get(style[-1]) if title and title.number == LANGUAGE_TITLE else None


def chats(file: Path) -> Iterator[Chat]:
    """Yield the chats of a file with `conversation` (role, value), or with `conversations` (from, value)."""
    for where, row in rows(file):
        yield chat_of(row, where)


def chat_of(row: Mapping[str, Any], where: str) -> Chat:
    """Return the chat of a row. Raises InputError if its roles do not alternate, beginning with the user."""
    turns = row.get("conversation", row.get("conversations"))
    name = row.get("id")
    if not isinstance(name, str) or not isinstance(turns, list) or not turns:
        raise InputError("is not a chat", file=where, fix=_FIX)
    messages = []
    for number, turn in enumerate(turns):
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        role = {"assistant": "chatbot", "gpt": "chatbot", "human": "user"}.get(str(role), role)
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if role != ("chatbot" if number % 2 else "user") or not isinstance(text, str):
            raise InputError(
                f"message {number} is not of the {'chatbot' if number % 2 else 'user'}", file=where, fix=_FIX
            )
        messages.append((role, text))
    return Chat(name, tuple(messages))


def rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and position, object) of a JSON list or of JSON lines."""
    with opened(file) as stream:
        first = stream.read(1)
        while first.isspace():
            first = stream.read(1)
        stream.seek(0)
        if first == b"[":
            found = storage.parse_json(stream.read(), file, fix="correct the JSON of the file")
            for index, row in enumerate(found):
                yield f"{file}, [{index}]", _object(row, f"{file}, [{index}]")
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{file}, line {number}"
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise InputError("is not JSON", file=where, fix="correct or remove the line") from None
                yield where, _object(row, where)


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError("is not a JSON object", file=where, fix=_FIX)
    return row


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading. Raises InputError if it cannot be read or is too large."""
    try:
        with storage.open_bounded(file, LARGEST) as (stream, _):
            yield stream
    except OSError as error:
        raise InputError(
            f"cannot be read ({storage.summary(error)})", file=file, key="inputs", fix="check the path"
        ) from None
