"""Chats as work for `asking`: each needs the replies of its turns, one after another."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from typing import IO

import orjson

from medray import storage
from medray.backends.protocol import Message, Reply
from medray.errors import InputError
from medray.storage import StoragePath
from medray.synth.asking.steps import steps_of
from medray.synth.asking.store import Store
from medray.synth.chat import checks, turns
from medray.synth.chat.situations import Situation


class Situations:
    """The situations in a JSON-lines file. Only ids and positions are in memory.

    Raises InputError for a line that is not a situation, and for a repeated id.
    """

    def __init__(self, file: StoragePath) -> None:
        local = storage.local(file)
        self._descriptor = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        self._index: dict[str, int] = {}
        self._offsets, self._lengths, self.turns = array("q"), array("i"), array("B")
        with open(local, "rb") as stream:
            self._read(stream, file)

    def _read(self, stream: IO[bytes], file: StoragePath) -> None:
        offset = 0
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    row = orjson.loads(line)
                    name, count = row["id"], row["nbr_of_turns"]
                    if count not in (1, 2, 3) or len(row["multiturn_style_parameters"]) != 7:
                        raise ValueError("not a situation")
                    if name in self._index:
                        raise InputError(
                            "the id of an earlier line is repeated",
                            file=f"{file}, line {number}",
                            fix="remove one line",
                        )
                except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError):
                    raise InputError(
                        "is not a situation", file=f"{file}, line {number}", fix="use a file of situations"
                    ) from None
                self._index[name] = len(self._offsets)
                self._offsets.append(offset)
                self._lengths.append(len(line))
                self.turns.append(count)
            offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def turns_of(self, name: str) -> int:
        return self.turns[self._index[name]]

    def get(self, name: str) -> Situation:
        number = self._index[name]
        line = os.pread(self._descriptor, self._lengths[number], self._offsets[number])
        return Situation.of_json(orjson.loads(line))

    def close(self) -> None:
        os.close(self._descriptor)


class ChatWork:
    """The chats of a file of situations."""

    def __init__(
        self, situations: Situations, store: Store, *, history: turns.History, max_tokens: int
    ) -> None:
        self.situations = situations
        self._store, self._history, self._max_tokens = store, history, max_tokens

    def names(self) -> Iterable[str]:
        return iter(self.situations)

    def replies(self, name: str) -> int:
        """Return the number of accepted replies of a chat."""
        done = 0
        for step in steps_of(self.situations.turns_of(name)):
            if not self._store.is_done(name, step):
                break
            done += 1
        return done

    def next_step(self, name: str) -> str | None:
        return turns.next_step(self.situations.turns_of(name), self.replies(name))

    def texts(self, name: str) -> list[str]:
        """Return the accepted replies of a chat, in order."""
        steps = steps_of(self.situations.turns_of(name))
        return [self._store.text(name, step) for step in steps[: self.replies(name)]]

    def messages(self, name: str, step: str) -> tuple[Message, ...]:
        return turns.messages(self.situations.get(name), self.texts(name), step, self._history)

    def limit(self, name: str) -> int:
        return self._max_tokens

    def problem(self, name: str, step: str, reply: Reply) -> str | None:
        return checks.problem(reply, self.situations.get(name), step)

    def finished(self) -> Iterator[tuple[Situation, list[str]]]:
        """Yield the complete chats, in the order of their situations."""
        for name in self.situations:
            if self.next_step(name) is None:
                yield self.situations.get(name), self.texts(name)
