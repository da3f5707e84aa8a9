"""The ledger actor of a run, as the driver uses it. Its death, or an MLflow server that hangs, never ends the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from medray.tracking import LedgerLine
from medray.train.driver.observer import RunObserver
from medray.train.export.evaluation import at_exported_step
from medray.train.loop.finish import WorkerResult

POLL_SECONDS = 10
CLOSE_SECONDS = 90  # more than the ledger takes in any case


class RunLedger:
    """The driver's side of the ledger actor: it passes the actor's news to the observer. on_step: called at each step in the news."""

    def __init__(self, actor: Any, observer: RunObserver, on_step: Callable[[], None]) -> None:
        self.actor = actor
        self._observer, self._on_step = observer, on_step
        self._shown = 0  # index of the last news that was shown

    def show_news(self) -> None:
        try:
            news = ray.get(self.actor.poll.remote(self._shown), timeout=POLL_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            return
        for record in news:
            self._shown = record["index"]
            if record["kind"] == "step":
                self._on_step()
            self._observer.hear(record)

    def forward_stop(self) -> None:
        if reason := self._observer.stop.reason:
            self.actor.request_stop.remote(reason)

    def log_last_evaluation(self, worker_result: WorkerResult, after: dict[str, float]) -> None:
        """Log the export's metrics as the evaluation of the step that it has the weights of, under the same names."""
        if not after:
            return
        record = {
            "step": worker_result.exported,
            "metrics": at_exported_step(worker_result.evaluated, after),
        }
        try:
            LedgerLine(self.actor).last_evaluation(record)
        except (ray.exceptions.RayError, TimeoutError, OSError):
            self._observer.phase("tracking", "the last evaluation could not be logged; summary.json has it")
        self.show_news()

    def close(self, summary: dict[str, Any], artifacts: list[str]) -> None:
        try:
            ray.get(self.actor.close.remote(summary, artifacts), timeout=CLOSE_SECONDS)
        except Exception:  # tracking never decides how a run ends
            self._observer.phase("tracking", "could not be closed")
        self.show_news()
