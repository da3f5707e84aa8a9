"""The loop that asks for replies, checks them, and records them in the state."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from medray.backends.price import cost as price_of
from medray.backends.protocol import Backend, Failure, Message, Reply, Request
from medray.config.backends import PriceConfig
from medray.synth.asking.steps import Key, parse_key
from medray.synth.asking.store import ERROR, OK, REJECTED, Record, Store

# Failures that say something about the request itself. All others leave it open, for the next start.
_FINAL = frozenset({"refused", "malformed"})


class Work(Protocol):
    """The subjects that need replies: questions, or chats."""

    def names(self) -> Iterable[str]:
        """Return the ids of all subjects, in order."""

    def next_step(self, name: str) -> str | None:
        """Return the next step of a subject, or None if it is complete."""

    def messages(self, name: str, step: str) -> tuple[Message, ...]:
        """Return the messages of a request."""

    def limit(self, name: str) -> int:
        """Return the largest number of tokens of a reply."""

    def problem(self, name: str, step: str, reply: Reply) -> str | None:
        """Return why a reply is not accepted, or None."""


@dataclass
class Outcome:
    """Counts of one call of `ask`. open_requests: without a reply, for the next start."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    open_requests: int = 0


def ask(
    work: Work,
    store: Store,
    backend: Backend,
    *,
    retries: int,
    seed: int = 0,
    temperature: float = 1.0,
    price: PriceConfig | None = None,
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Ask until every subject is complete, dropped, or without an answer.

    Each reply is in the state before the next one is read. A subject continues as soon as its reply has arrived. price: of
    replies whose backend gives none. Raises the errors of the backend.
    """
    outcome = Outcome()
    ready = deque(work.names())
    sent: dict[str, tuple[Key, str]] = {}

    def requests() -> Iterator[Request]:
        while ready:
            name = ready.popleft()
            found = open_request(work, store, name, retries, seed, temperature)
            if found is not None:
                key, request = found
                sent[request.key] = key, _digest(request)
                yield request

    while ready:
        for answer in backend.answers(requests()):
            key, digest = sent.pop(answer.key)
            if isinstance(answer, Failure) and answer.kind not in _FINAL:
                outcome.failures[answer.kind] += 1
                outcome.open_requests += 1
                continue
            record = _record(work, key, digest, answer, backend.name, price)
            store.add(record)
            outcome.accepted += record.status == OK
            if record.status != OK:
                outcome.rejected[record.reason] += 1
            ready.append(key.id)
            watch(outcome)
    return outcome


def record_all(
    work: Work,
    store: Store,
    answers: Iterable[Reply | Failure],
    backend: str,
    price: PriceConfig | None = None,
) -> Outcome:
    """Record answers that arrive without being asked for now, such as those of a finished batch.

    Each is in the state before the next one is read. An answer of an earlier attempt changes nothing.
    """
    outcome = Outcome()
    known = set(work.names())
    for answer in answers:
        key = parse_key(answer.key)
        if key is None or key.id not in known or work.next_step(key.id) != key.step:
            continue
        if isinstance(answer, Failure) and answer.kind not in _FINAL:
            outcome.failures[answer.kind] += 1
            outcome.open_requests += 1
            continue
        record = _record(work, key, "", answer, backend, price)
        if store.add(record):
            outcome.accepted += record.status == OK
            if record.status != OK:
                outcome.rejected[record.reason] += 1
    return outcome


def open_request(
    work: Work, store: Store, name: str, retries: int, seed: int, temperature: float
) -> tuple[Key, Request] | None:
    """Return the next request of a subject; None if it is complete or dropped."""
    step = work.next_step(name)
    if step is None or store.attempts(name, step) > retries:
        return None
    key = Key(name, step, store.attempts(name, step))
    return key, Request(
        key=key.text(),
        messages=work.messages(name, step),
        holds="synthetic",
        max_tokens=work.limit(name),
        temperature=temperature,
        seed=int.from_bytes(hashlib.sha256(f"{seed} {key.text()}".encode()).digest()[:4], "big") >> 1,
    )


def open_requests(
    work: Work, store: Store, *, retries: int, seed: int = 0, temperature: float = 1.0
) -> Iterator[Request]:
    """Yield the next request of every subject that is neither complete nor dropped."""
    for name in work.names():
        found = open_request(work, store, name, retries, seed, temperature)
        if found is not None:
            yield found[1]


def _record(
    work: Work, key: Key, digest: str, answer: Reply | Failure, backend: str, price: PriceConfig | None
) -> Record:
    if isinstance(answer, Failure):
        return Record(key=key, status=ERROR, reason=answer.message, backend=backend, prompt_hash=digest)
    reason = work.problem(key.id, key.step, answer)
    paid = answer.cost
    if paid is None and price is not None:
        paid = price_of(price, answer.prompt_tokens or 0, answer.completion_tokens or 0)
    keep: dict[str, Any] = {"text": answer.text} if reason != "half of a Unicode pair" else {}
    return Record(
        key=key,
        status=OK if reason is None else REJECTED,
        reason=reason or "",
        backend=backend,
        model=answer.model,
        finish_reason=answer.finish_reason,
        prompt_hash=digest,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cost=paid,
        retries=answer.attempts - 1,
        **keep,
    )


def _digest(request: Request) -> str:
    found = hashlib.blake2b(digest_size=8)
    for message in request.messages:
        found.update(f"{message.role}\0{message.content}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()
