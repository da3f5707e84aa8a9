"""A reporter that keeps what a worker loop says, for loops that run without Ray."""

from __future__ import annotations

from typing import Any


class Recorder:
    """stop_after: ask for a stop once this step has been reported; gone_after: a node goes then."""

    def __init__(self, stop_after: int | None = None, gone_after: int | None = None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        self.syncs: list[dict[str, Any]] = []
        self._stop_after, self._gone_after = stop_after, gone_after

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

    def look_due(self) -> bool:
        return True

    def node_goes(self) -> float | None:
        return 0.0 if self._gone_after is not None and len(self.steps) >= self._gone_after else None

    def flush(self) -> None:
        pass

    def sync(self, metrics: dict[str, Any]) -> None:
        self.syncs.append(metrics)
