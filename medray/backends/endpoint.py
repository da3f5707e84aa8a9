"""Answers from an OpenAI-compatible server: concurrency, pace, retries, the privacy wall, cost and budget.

Threads send the requests. The thread that consumes the answers reads the requests, checks them against the wall and reserves
their cost, so that a caller's generator runs in one thread, and no more than twice the concurrency is taken from it ahead.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from medray.backends import wall
from medray.backends.chat_client import ChatClient, SendError, api_key, check_installed
from medray.backends.pace import Pace, retry_wait
from medray.backends.price import Budget, most_cost, prompt_tokens
from medray.backends.protocol import BudgetSpentError, Failure, Reply, Request
from medray.backends.usage import Usage
from medray.config.backends import BackendConfig
from medray.errors import MedrayError, RunFailedError

LONGEST_RETRY_AFTER = 900.0  # seconds; a server that asks for more has no quota left for today
FAILURES_IN_A_ROW = 5  # requests that failed after all retries, for reasons of the server
END_SECONDS = 2.0  # for requests in flight, when the caller wants no further answers
_OWN_FAULT = frozenset({"refused", "not_allowed", "budget"})  # reasons of a single request


class Endpoint:
    """A backend that asks an OpenAI-compatible server.

    section: its config. where: the dotted key of the section, for messages. budget: may be shared with other backends.
    seed: of the jitter of waits. Raises InputError if the key's environment variable is not set, or openai not installed.
    """

    def __init__(
        self, section: BackendConfig, where: str, *, budget: Budget | None = None, seed: int = 0
    ) -> None:
        self.section, self.where, self.seed = section, where, seed
        self.budget = budget or Budget(None)
        self.usage = Usage()
        self.name = f"{section.model} at {wall.host_of(str(section.base_url))}"
        self._pace = Pace(section.limits)
        check_installed(f"{where}.type")
        api_key(section, where)
        self._failed_in_a_row = 0
        self._answered = False
        self._lock = threading.Lock()

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Yield the answers as they arrive. See `Backend.answers`."""
        with _Threads(self, self.section.limits.concurrency) as threads:
            for request in requests:
                if said := wall.refusal(self.section, request):
                    refused = Failure(key=request.key, kind="not_allowed", message=said)
                    self.usage.count(refused)
                    yield refused
                    continue
                amount = most_cost(self.section.price, request)
                while not self.budget.reserve(amount):
                    if threads.pending:
                        yield threads.next()
                    elif not self.budget.wait():  # for a backend that shares the budget
                        raise self._spent(amount)
                threads.put(request, amount)
                while threads.pending >= 2 * self.section.limits.concurrency:
                    yield threads.next()
            while threads.pending:
                yield threads.next()

    def _spent(self, amount: float) -> BudgetSpentError:
        return BudgetSpentError(
            f"{self.name}: {self.budget.spent:,.4g} of the budget {self.budget.limit:,.4g} is spent, and the next request may "
            f"cost {amount:,.4g}; it was not sent\n  Fix: raise the budget and run the command again"
        )

    def answer(
        self, client: ChatClient, request: Request, reserved: float, stop: threading.Event
    ) -> Reply | Failure | None:
        """Send a request until it is answered or final, and settle its cost. Returns None if `stop` was set.

        Raises MedrayError if all further requests are useless.
        """
        most, actual, holds = reserved, 0.0, True
        try:
            for attempt in range(1, self.section.limits.retries + 2):
                if not self._wait_for_turn(request, stop):
                    return None
                begun = time.monotonic()
                self.usage.count_sent()
                try:
                    reply = client.send(request)
                except SendError as error:
                    if error.uncertain:  # the server may charge for it
                        self.budget.settle(most, most)
                        self.usage.count_uncertain(most)
                        holds = False
                    if error.stop is not None:
                        raise error.stop from None
                    if not error.retry or attempt > self.section.limits.retries:
                        return self._failed(request, error, attempt)
                    if not holds and not (holds := self.budget.reserve(most)):
                        message = f"{error.message}; the budget does not allow another try"
                        return self._failed(request, SendError("budget", message), attempt)
                    self.usage.count_retry(error.kind)
                    if not self._wait_for_retry(request, error, attempt, stop):
                        return None
                    continue
                actual = reply.cost if reply.cost is not None else most
                with self._lock:
                    self._failed_in_a_row, self._answered = 0, True
                return replace(reply, seconds=time.monotonic() - begun, attempts=attempt)
            raise AssertionError("unreachable")
        finally:
            if holds:
                self.budget.settle(most, actual)

    def _wait_for_turn(self, request: Request, stop: threading.Event) -> bool:
        tokens = prompt_tokens(request) + request.max_tokens
        while (delay := self._pace.delay(tokens)) > 0:
            if stop.wait(delay):
                return False
        return not stop.is_set()

    def _wait_for_retry(
        self, request: Request, error: SendError, attempt: int, stop: threading.Event
    ) -> bool:
        if error.wait is not None and error.wait > LONGEST_RETRY_AFTER:
            raise RunFailedError(
                f"{self.name} answered {error.status} and asks to wait {error.wait:,.0f} s; run the command again later"
            )
        if error.wait is not None:
            self._pace.pause(error.wait)
        own = retry_wait(self.section.limits, self.seed, request.key, attempt)
        return not stop.wait(max(own, error.wait or 0.0))

    def _failed(self, request: Request, error: SendError, attempts: int) -> Failure:
        """Return the failure of a request. Raises RunFailedError if the server itself seems to be the reason."""
        if error.kind not in _OWN_FAULT:
            with self._lock:
                self._failed_in_a_row += 1
                refused = error.kind == "connection" and not self._answered and not error.uncertain
                if refused or self._failed_in_a_row >= FAILURES_IN_A_ROW:
                    raise RunFailedError(
                        f"{self.name} does not answer: {error.message}, {attempts} times per request "
                        f"({self._failed_in_a_row} requests in a row)\n  Fix: check that the server runs and base_url is "
                        "right, then run the command again"
                    )
        return Failure(
            key=request.key, kind=error.kind, message=error.message, status=error.status, attempts=attempts
        )


class _Threads:
    """The threads that send, and their client.

    They are daemons, so that an interrupted program need not wait for a slow server; the last one closes the client.
    """

    def __init__(self, endpoint: Endpoint, count: int) -> None:
        self._endpoint, self._count = endpoint, count
        self._client = ChatClient(endpoint.section, endpoint.where)
        self._work: queue.SimpleQueue[tuple[Request, float] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Reply | Failure | BaseException | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.pending = 0

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *error: object) -> None:
        """End the threads. Requests in flight get a moment to end; later their threads end by themselves."""
        self._stop.set()
        closer = threading.Thread(target=self._close, daemon=True, name="medray-endpoint-close")
        closer.start()
        closer.join(END_SECONDS)

    def _close(self) -> None:
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._client.close()

    def put(self, request: Request, reserved: float) -> None:
        self.pending += 1
        self._work.put((request, reserved))
        if len(self._threads) < min(self._count, self.pending):
            self._threads.append(threading.Thread(target=self._run, daemon=True, name="medray-endpoint"))
            self._threads[-1].start()

    def next(self) -> Reply | Failure:
        """Wait for the next answer. Raises the error of a thread."""
        found = self._done.get()
        self.pending -= 1
        if isinstance(found, MedrayError):
            raise found
        if isinstance(found, BaseException):
            raise RunFailedError(f"a request failed in medray itself ({type(found).__name__})") from found
        assert found is not None  # threads return None only after the end
        self._endpoint.usage.count(found)
        return found

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            request, reserved = work
            try:
                if self._stop.is_set():
                    self._endpoint.budget.settle(reserved, 0.0)
                else:
                    self._done.put(self._endpoint.answer(self._client, request, reserved, self._stop))
            except BaseException as error:
                self._done.put(error)
