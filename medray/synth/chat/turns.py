"""The turns of a chat, as pure functions: the replies so far decide the next step and its messages.

    question -> 1c -> [1 turn: done] -> 2u -> 2c -> [2 turns: done] -> 3u -> 3c -> done

A chat never ends with a message of the user: if a reply is missing in the end, the whole chat is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medray.backends.protocol import Message
from medray.synth.asking.steps import CHAT_STEPS
from medray.synth.chat.situations import Situation

History = Literal["messages", "flat"]
OPENING = "Write your first question to the chatbot."


def next_step(turns: int, replies: int) -> str | None:
    """Return the step after this number of accepted replies, or None if the chat is complete."""
    return CHAT_STEPS[replies] if replies < 2 * turns - 1 else None


def conversation(situation: Situation, replies: Sequence[str]) -> list[tuple[str, str]]:
    """Return the messages so far as (role, text); roles are user and chatbot."""
    texts = [situation.initial_prompt, *replies]
    return [("chatbot" if number % 2 else "user", text) for number, text in enumerate(texts)]


def messages(
    situation: Situation, replies: Sequence[str], step: str, history: History = "messages"
) -> tuple[Message, ...]:
    """Return the messages of the request for a step.

    history: messages gives each message of the chat its own, with the roles swapped where the model plays the user; flat
    gives one message with all of them, marked by (user) and (chatbot), as published.
    """
    as_user = step.endswith("u")
    system = Message(role="system", content=situation.system_user if as_user else situation.system_chatbot)
    so_far = conversation(situation, replies)
    if history == "flat":
        text = "".join(f"({role}) {value} \n" for role, value in so_far)
        return system, Message(role="user", content=text)
    own = "user" if as_user else "chatbot"
    turns = [Message(role="assistant" if role == own else "user", content=text) for role, text in so_far]
    # A chat template wants the user first; the model that plays the user wrote the first message itself.
    opening = (Message(role="user", content=OPENING),) if as_user else ()
    return system, *opening, *turns
