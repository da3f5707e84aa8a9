"""Cost of requests by the user's price table: an estimate before, the actual cost after, and a budget.

No provider's prices and no tokenizer are known here. The number of tokens of a prompt is estimated from its length; a bound
that is never too low is its number of UTF-8 bytes, since a token covers at least one byte.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from medray.backends.protocol import Request
from medray.config.backends import PriceConfig

CHARACTERS_PER_TOKEN = 4.0  # of English text; other languages and numbers have fewer
TOKENS_PER_MESSAGE = 4  # role and separators of a chat template
_TEMPLATE_BOUND = 64  # tokens that a template may add to a prompt, and 16 for each message
_MESSAGE_BOUND = 16


def prompt_tokens(request: Request, characters_per_token: float = CHARACTERS_PER_TOKEN) -> int:
    """Return the probable number of tokens of a prompt."""
    characters = sum(len(message.content) for message in request.messages)
    return round(characters / characters_per_token) + TOKENS_PER_MESSAGE * len(request.messages)


def most_prompt_tokens(request: Request) -> int:
    """Return a number of tokens that a prompt does not exceed with a byte-level tokenizer."""
    size = sum(len(message.content.encode()) for message in request.messages)
    return size + _TEMPLATE_BOUND + _MESSAGE_BOUND * len(request.messages)


def cost(price: PriceConfig | None, prompt: int, completion: int) -> float:
    """Return the cost of tokens in the currency of the price table; 0 without one."""
    if price is None:
        return 0.0
    return (prompt * price.prompt_per_million + completion * price.completion_per_million) / 1e6


def most_cost(price: PriceConfig | None, request: Request) -> float:
    """Return a cost that one sending of the request does not exceed."""
    return cost(price, most_prompt_tokens(request), request.max_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The estimated cost of requests. most_cost: if every reply is as long as its limit."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    most_cost: float


def estimate(
    requests: Iterable[Request],
    price: PriceConfig | None,
    *,
    completion_tokens: float | None = None,
    characters_per_token: float = CHARACTERS_PER_TOKEN,
) -> Estimate:
    """Return the estimated cost of requests before they are sent.

    completion_tokens: mean length of a reply, from earlier replies; None: the limit of each request.
    characters_per_token: of the prompts, from earlier replies.
    """
    count = prompt = limit = 0
    for request in requests:
        count += 1
        prompt += prompt_tokens(request, characters_per_token)
        limit += request.max_tokens
    expected = limit if completion_tokens is None else min(limit, round(completion_tokens * count))
    return Estimate(
        requests=count,
        prompt_tokens=prompt,
        completion_tokens=expected,
        cost=cost(price, prompt, expected),
        most_cost=cost(price, prompt, limit),
    )


class Budget:
    """A sum that must not be exceeded. Backends and threads may share one.

    Before a request is sent, its highest possible cost is reserved; its reply replaces the reservation by the actual cost.
    limit: None for no limit. spent: cost of earlier starts.
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit, self.spent = limit, spent
        self._reserved, self._open = 0.0, 0
        self._settled = threading.Condition()

    def reserve(self, amount: float) -> bool:
        """Reserve an amount if it fits, and return whether it did. Each reservation is settled once."""
        with self._settled:
            if self.limit is not None and self.spent + self._reserved + amount > self.limit:
                return False
            self._reserved, self._open = self._reserved + amount, self._open + 1
            return True

    def hold(self, amount: float) -> None:
        """Reserve an amount whether or not it fits: for requests of an earlier start that are still on their way."""
        with self._settled:
            self._reserved, self._open = self._reserved + amount, self._open + 1

    def join(self, count: int) -> None:
        """Make one reservation of `count` reservations, which are settled together."""
        with self._settled:
            self._open -= count - 1

    def settle(self, reserved: float, actual: float) -> None:
        """Replace a reservation by the actual cost."""
        with self._settled:
            self._open -= 1
            self._reserved = self._reserved - reserved if self._open else 0.0
            self.spent += actual
            self._settled.notify_all()

    def wait(self) -> bool:
        """Wait until a reservation is settled, and return True; return False at once if there is none."""
        with self._settled:
            return bool(self._open) and self._settled.wait()
