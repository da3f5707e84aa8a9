"""A reporter that keeps what a worker loop says, for loops that run without Ray."""

from __future__ import annotations

from typing import Any


class Recorder:
    """stop_after: ask for a stop once this step has been reported."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        self.syncs: list[dict[str, Any]] = []
        self._stop_after = stop_after

    def opened(self, resumed_step: int) -> None:
        self.resumed.append(resumed_step)

    def step(self, record: dict[str, Any]) -> None:
        self.steps.append(record)

    def evaluation(self, record: dict[str, Any]) -> None:
        self.evaluations.append(record)

    def event(self, record: dict[str, Any]) -> None:
        self.events.append(record)

    def stop_requested(self) -> bool:
        return self._stop_after is not None and len(self.steps) >= self._stop_after

    def flush(self) -> None:
        pass

    def sync(self, metrics: dict[str, Any]) -> None:
        self.syncs.append(metrics)
