"""The steps of a synthesis that need a reply, and the keys of their requests."""

from __future__ import annotations

from typing import NamedTuple

QUESTION = "q"
CHAT_STEPS = ("1c", "2u", "2c", "3u", "3c")  # turn, and who writes: c the chatbot, u the user
STEPS = (QUESTION, *CHAT_STEPS)
COLUMN = {step: number for number, step in enumerate(STEPS)}


class Key(NamedTuple):
    """The key of one request. attempt: 0, and one more after each reply that was rejected.

    A recorded reply belongs to one attempt, so that reading it again can never count as another attempt.
    """

    id: str
    step: str
    attempt: int

    def text(self) -> str:
        return f"{self.id}|{self.step}|{self.attempt}"


def parse_key(text: str) -> Key | None:
    """Return the key of a custom_id that `Key.text` wrote, or None."""
    parts = text.rsplit("|", 2)
    if len(parts) != 3 or parts[1] not in COLUMN or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    return Key(parts[0], parts[1], int(parts[2][:6]))


def steps_of(turns: int) -> tuple[str, ...]:
    """Return the steps of a chat of this many turns: it ends with the chatbot, and has 2 x turns messages."""
    return CHAT_STEPS[: 2 * turns - 1]
