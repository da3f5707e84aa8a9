"""One conversation with a loaded model, with the prompts of its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medray.data.encode.render import FIRST_TURN
from medray.data.records import Message
from medray.errors import InputError
from medray.evaluate.decoding import Decoding

if TYPE_CHECKING:
    from medray.evaluate.asking import Answerer, AskedModel
    from medray.evaluate.room import Room


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The answer to one question. cut: whether the model did not see the whole question, or not all earlier turns."""

    text: str
    tokens: int
    finish: Literal["stop", "length", "refused"]
    cut: bool


def takes_turns(asked: AskedModel) -> bool:
    """Return whether a model was trained on conversations. Others read one input and know no earlier turns."""
    spec = asked.spec
    return not asked.prompted and spec.architecture == "causal" and spec.template != FIRST_TURN


def refuse_two_steps(asked: AskedModel, verb: str) -> None:
    """Raise InputError for a model whose label needs key words that are found in a first step."""
    if asked.spec.appends_keys:
        raise InputError(
            f"medray {verb} does not support models of method.variant two_step, which find key words before they answer",
            key="RUN|MODEL",
            fix="use `medray predict`, which takes both steps",
        )


class Conversation:
    """The turns so far, and the model that answers. A model that reads single inputs forgets each turn.

    answered: number of questions that were answered. It names the rows of sampling, so a conversation can be repeated.
    """

    def __init__(self, answerer: Answerer, decoding: Decoding, room: Room) -> None:
        self._answerer, self._decoding, self._room = answerer, decoding, room
        self.keeps_turns = takes_turns(answerer.asked)
        self._turns: tuple[Message, ...] = ()
        self.answered = 0

    def reset(self) -> None:
        """Forget all turns."""
        self._turns, self.answered = (), 0

    def ask(self, question: str, listener: Callable[[str], None]) -> Reply:
        """Answer a question. listener: called with each new piece of the answer.

        Raises InputError if the question does not fit into the model's context.
        """
        from medray.evaluate.progress import Row, write

        turns = (*self._turns, Message("user", question))
        prompt = self._answerer.prompts([self._answerer.record(turns)])
        [ids], [cut] = prompt.ids, prompt.cut
        if not len(ids):
            raise InputError(
                "the template of this model cannot show this question",
                key="question",
                fix="use /reset, and ask again",
            )
        limit = self._room.limit(len(ids), self._decoding.max_new_tokens)
        if limit < 1:
            raise InputError(
                f"the conversation has {len(ids)} tokens, and the model's context has no room for an answer",
                key="question",
                fix="use /reset, or ask a shorter question",
            )
        row = Row(limit=limit, stop=self._decoding.stop, listener=listener)
        name = f"turn {self.answered}"
        [answer] = write(self._answerer, [ids], [row], self._decoding, names=[name])
        self.answered += 1
        if self.keeps_turns:
            self._turns = (*turns, Message("assistant", answer.text))
        return Reply(text=answer.text, tokens=answer.tokens, finish=answer.finish, cut=cut)
