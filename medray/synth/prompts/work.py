"""Opening questions as work for `asking`: one reply for each request of the grid."""

from __future__ import annotations

from collections.abc import Iterable

from medray.backends.protocol import Message, Reply
from medray.synth.asking.steps import QUESTION
from medray.synth.asking.store import Store
from medray.synth.chat.checks import plain_problem
from medray.synth.prompts.grid import PromptRequest
from medray.synth.prompts.questions import UnusableReplyError, texts_of


class QuestionWork:
    """The requests for opening questions, and which of them have an accepted reply."""

    def __init__(self, requests: Iterable[PromptRequest], store: Store) -> None:
        self._requests = {request.id: request for request in requests}
        self._store = store

    def names(self) -> Iterable[str]:
        return self._requests

    def next_step(self, name: str) -> str | None:
        return None if self._store.is_done(name, QUESTION) else QUESTION

    def messages(self, name: str, step: str) -> tuple[Message, ...]:
        request = self._requests[name]
        return Message(role="system", content=request.system), Message(role="user", content=request.prompt)

    def limit(self, name: str) -> int:
        return self._requests[name].max_tokens

    def problem(self, name: str, step: str, reply: Reply) -> str | None:
        found = plain_problem(reply)
        if found is not None:
            return found
        try:
            texts_of(self._requests[name], reply.text, strip_quotes=False)
        except UnusableReplyError as error:
            return str(error)
        return None

    def replies(self) -> dict[str, str]:
        """Return the accepted replies by the id of their request."""
        return {
            name: self._store.text(name, QUESTION)
            for name in self._requests
            if self._store.is_done(name, QUESTION)
        }
