"""The protocol of all backends, and the values that it exchanges: requests, replies and failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from medray.errors import RunFailedError

if TYPE_CHECKING:
    from medray.backends.usage import Usage

Kind = Literal["records", "synthetic"]
FailureKind = Literal[
    "not_allowed",  # the wall: text of records for a server that may not receive it; nothing was sent
    "refused",  # the server refuses this request for good (400, 413, 422)
    "rate_limited",  # 429 after all retries
    "server",  # 5xx after all retries
    "timeout",
    "connection",
    "malformed",  # the answer is not what the protocol promises
    "budget",  # the budget does not allow another try
    "missing",  # no recorded reply, or no line in the files of a batch
    "error",  # the function of a local model or rule failed
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a chat. role: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt.

    key: identifies the request within its caller; a reply carries it. holds: whether the messages contain text of the
    user's records, or only text that was invented; there is no default, because the privacy wall decides by it.
    max_tokens: limit of the reply. seed: sent only if given. schema: a JSON schema for the reply, for servers that obey one.
    """

    key: str
    messages: tuple[Message, ...]
    holds: Kind
    max_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One reply.

    finish_reason: stop, length, content_filter, or another word of the server. prompt_tokens, completion_tokens: as the
    server counted them; None if it did not. cost: by the price table, None without one. seconds: of the request that
    succeeded. attempts: requests that were sent for it. refusal: the server's words where the model declined.
    """

    key: str
    text: str
    finish_reason: str
    model: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    refusal: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A request without a reply. message: safe to show, without text of the prompt. attempts: requests that were sent."""

    key: str
    kind: FailureKind
    message: str
    status: int | None = None
    attempts: int = 0


class Backend(Protocol):
    """An answerer of prompts.

    name: for messages and reports, such as `judges[0] (gpt at api.example.com)`.
    """

    name: str
    usage: Usage

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Yield one reply or failure per request, in the order in which they arrive; `key` tells which it is.

        `requests` is read as the answers are consumed, by the thread that consumes them. Closing the iterator stops the
        work. Raises InputError or RunFailedError if further requests are useless (wrong key, no such model, a dead
        server), and BudgetSpentError before the request that could exceed the budget; answers that had arrived by then
        have been yielded.
        """
        ...


class BudgetSpentError(RunFailedError):
    """The next request could exceed the budget, and was not sent."""
