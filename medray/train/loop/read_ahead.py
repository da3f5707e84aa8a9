"""Prefetching of arrays: a side thread fills a short queue while steps are computed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

WAITING_SECONDS = 5.0


@dataclass(frozen=True)
class Ready(Generic[T]):
    """The arrays of a step. waited: seconds that the consumer waited for them."""

    step: int
    prepared: T
    waited: float


class ReadAhead(Generic[T]):
    """An iterator over `steps` in order, which prepares at most `depth` steps ahead of the consumer.

    As a context manager, it ends the side thread on exit, however many steps were taken. An exception of `prepare` is
    raised by the iteration, after the steps that were prepared before it. waiting: called every WAITING_SECONDS while
    the consumer waits.
    """

    def __init__(
        self,
        prepare: Callable[[int], T],
        steps: range,
        *,
        depth: int = 4,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._waiting = waiting
        self._prepare, self._steps, self._depth = prepare, steps, depth
        self._made: deque[tuple[int, T]] = deque()
        self._changed = Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None
        # A daemon thread, so that a shard that never arrives does not keep the process alive.
        self._thread = Thread(target=self._fill, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def __iter__(self) -> Iterator[Ready[T]]:
        while True:
            began = time.perf_counter()
            with self._changed:
                while not self._changed.wait_for(lambda: self._made or self._ended, WAITING_SECONDS):
                    self._waiting()
                if not self._made:
                    break
                step, made = self._made.popleft()
                self._changed.notify_all()
            yield Ready(step, made, time.perf_counter() - began)
        if self._error is not None:
            raise self._error

    def _fill(self) -> None:
        try:
            for step in self._steps:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._made) < self._depth)
                    if self._closed:
                        return
                made = self._prepare(step)
                with self._changed:
                    self._made.append((step, made))
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
