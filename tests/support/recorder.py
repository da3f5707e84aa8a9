"""A reporter that keeps what a worker loop says, for loops that run without Ray."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.train.loop.finish import WorkerResult
    from medray.train.worker_plan import WorkerPlan


class Recorder:
    """A recorder. stop_after: ask for a stop once this step has been reported. gone_after: a node leaves after this step.

    saves_every: steps wait for the checkpoint before them. A loop leaves one out while another is written, which on a
    busy machine takes longer than a few tiny steps.
    """

    def __init__(
        self, stop_after: int | None = None, gone_after: int | None = None, saves_every: int | None = None
    ) -> None:
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        self.syncs: list[dict[str, Any]] = []
        self._stop_after, self._gone_after, self._saves_every = stop_after, gone_after, saves_every
        self._saved, self._told = 0, threading.Condition()
        self._writer: threading.Thread | None = None  # of the newest checkpoint

    def opened(self, resumed_step: int) -> None:
        self.resumed.append(resumed_step)
        self._saved = resumed_step

    def step(self, record: dict[str, Any]) -> None:
        self.steps.append(record)
        if self._saves_every:
            due = (record["step"] - 1) // self._saves_every * self._saves_every
            with self._told:
                assert self._told.wait_for(lambda: self._saved >= due, timeout=100)
            if (
                self._writer is not None
            ):  # it still removes older checkpoints, and would be busy for the next one
                self._writer.join(timeout=100)

    def evaluation(self, record: dict[str, Any]) -> None:
        self.evaluations.append(record)

    def event(self, record: dict[str, Any]) -> None:
        """The writer of checkpoints calls it in a thread of its own."""
        self.events.append(record)
        if record["kind"] == "checkpoint":
            with self._told:
                self._saved, self._writer = record["step"], threading.current_thread()
                self._told.notify_all()

    def stop_requested(self) -> bool:
        return self._stop_after is not None and len(self.steps) >= self._stop_after

    def preemption_check_due(self) -> bool:
        return True

    def preemption_time(self) -> float | None:
        return 0.0 if self._gone_after is not None and len(self.steps) >= self._gone_after else None

    def flush(self) -> None:
        pass

    def sync(self, metrics: dict[str, Any]) -> None:
        self.syncs.append(metrics)


class Rank:
    """A worker loop in two halves, so that a test can look at what was built: `built`, then `run`."""

    def __init__(self, plan: WorkerPlan, recorder: Recorder) -> None:
        from medray.train.loop.build import build
        from medray.train.loop.news import News

        self.plan, self.news = plan, News(recorder)
        self.built = build(plan, self.news)

    def run(self) -> WorkerResult:
        from medray.train.loop.training import train

        return train(self.plan, self.built, self.news)
