"""The worker loop inside Ray Train: its reporter sends news to the ledger and waits for nothing on the step path."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

import ray
import ray.train

from medray.errors import InputError, MedrayError
from medray.train.loop import WorkerPlan, run

FLUSH_SECONDS = 30.0


class LedgerReporter:
    """News of rank 0 to the run's ledger actor, without waiting. The ledger's death never stops training."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._rank = ray.train.get_context().get_world_rank()
        self._stop: Any = None

    def opened(self, resumed_step: int) -> None:
        ray.get(self._ledger.open.remote(resumed_step=resumed_step))

    def step(self, record: dict[str, Any]) -> None:
        self._ledger.step.remote(record)

    def evaluation(self, record: dict[str, Any]) -> None:
        self._ledger.evaluation.remote(record)

    def event(self, record: dict[str, Any]) -> None:
        if self._rank == 0:
            self._ledger.event.remote(record)

    def stop_requested(self) -> bool:
        """The answer to the question of the step before: asking costs no round trip."""
        answer = False
        if self._stop is not None:
            ready, _ = ray.wait([self._stop], timeout=0)
            if not ready:
                return False
            try:
                answer = ray.get(self._stop) is not None
            except ray.exceptions.RayActorError:
                return False
        self._stop = self._ledger.stop_reason.remote()
        return answer

    def flush(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            # Calls of one caller run in order, so an answer means that the steps before it are written.
            ray.get(self._ledger.stop_reason.remote(), timeout=FLUSH_SECONDS)

    def sync(self, metrics: dict[str, Any]) -> None:
        ray.train.report(metrics)


def worker(payload: dict[str, Any]) -> dict[str, Any]:
    """What TorchTrainer runs on every rank. Errors that medray explains travel as values: a retry mends none."""
    plan: WorkerPlan = payload["plan"]
    try:
        outcome = run(plan, LedgerReporter(payload["ledger"]))
    except InputError as error:
        return {"input_error": error.args}
    except MedrayError as error:
        return {"run_error": str(error)}
    return asdict(outcome)
