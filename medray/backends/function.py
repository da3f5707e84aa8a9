"""Answers from a function in this process: a rule, or a local model that another room hands in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from medray.backends.protocol import Failure, Reply, Request
from medray.backends.usage import Usage
from medray.errors import MedrayError, RunFailedError

# Returns one answer per request, in their order. A text is a reply that ended by itself.
Answerer = Callable[[Sequence[Request]], Sequence[str | Reply | Failure]]


class FunctionBackend:
    """A backend that calls a function with batches of requests.

    name: for messages. batch_size: most requests in one call. The text stays in this process, so the privacy wall allows
    everything. Raises RunFailedError if the function fails; MedrayError of the function is passed on.
    """

    def __init__(
        self, name: str, function: Answerer, *, batch_size: int = 1, model: str | None = None
    ) -> None:
        self.name, self.usage = name, Usage()
        self._function, self._batch_size, self._model = function, batch_size, model or name

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Yield the answers in the order of the requests."""
        waiting = iter(requests)
        while batch := list(islice(waiting, self._batch_size)):
            begun = time.monotonic()
            try:
                found = self._function(batch)
            except MedrayError:
                raise
            except Exception as error:  # its message may quote the prompt
                raise RunFailedError(f"{self.name} failed with {type(error).__name__}") from None
            seconds = (time.monotonic() - begun) / len(batch)
            for request, each in zip(batch, found, strict=True):
                answer = (
                    Reply(
                        key=request.key, text=each, finish_reason="stop", model=self._model, seconds=seconds
                    )
                    if isinstance(each, str)
                    else each
                )
                self.usage.count_sent()
                self.usage.count(answer)
                yield answer


def rule(name: str, answer: Callable[[Request], str]) -> FunctionBackend:
    """Return a backend that answers each request by a function of it alone."""
    return FunctionBackend(name, lambda batch: [answer(each) for each in batch])
