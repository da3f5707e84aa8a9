"""The news of a rank: its reports of steps and phases, and the durations of its phases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from medray.train.loop.interruption import Signals


class Reporter(Signals, Protocol):
    """A receiver of a rank's news. Only rank 0's step, evaluation and event calls matter; all ranks call `sync`.

    `train/loop/worker.py` has the reporter for Ray.
    """

    def opened(self, resumed_step: int) -> None: ...
    def step(self, record: dict[str, Any]) -> None: ...
    def evaluation(self, record: dict[str, Any]) -> None: ...
    def event(self, record: dict[str, Any]) -> None: ...
    def flush(self) -> None:
        """Wait until everything reported so far is on disk: a checkpoint must not include a step that its log lacks.

        Raises OSError if it cannot find out whether it is.
        """

    def sync(self, metrics: dict[str, Any]) -> None:
        """Wait at an evaluation, on all ranks."""


class News:
    """Events of a rank, sent through its reporter. seconds: duration of each phase of this attempt."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.seconds: dict[str, float] = {}

    def phase(self, name: str) -> None:
        self.event("phase", name=name)

    def message(self, text: str) -> None:
        self.event("message", text=text)

    def message_of(self, rank: int, text: str) -> None:
        """Send a message that only `rank` knows; it is kept even if that is not rank 0."""
        self.event("message", text=f"worker {rank}: {text}", of_any_rank=True)

    def event(self, kind: str, **fields: Any) -> None:
        self.reporter.event({"kind": kind, **fields})

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
