"""The worker loop inside Ray Train: its reporter sends news to the ledger and waits for nothing on the step path."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import ray
import ray.train

from medray.errors import InputError, MedrayError
from medray.tracking.ledger_line import LedgerLine
from medray.train.loop import run
from medray.train.worker_plan import WorkerPlan

LOOK_SECONDS = 1.0  # asking is a barrier of all ranks, through an actor: not every step


class LedgerReporter:
    """News of rank 0 to the run's ledger actor, without waiting. The ledger's death never stops training."""

    def __init__(self, ledger: Any) -> None:
        self._line = LedgerLine(ledger)
        self._rank = ray.train.get_context().get_world_rank()
        self._next_look = 0.0

    def opened(self, resumed_step: int) -> None:
        self._line.open(resumed_step)

    def step(self, record: dict[str, Any]) -> None:
        self._line.step(record)

    def evaluation(self, record: dict[str, Any]) -> None:
        self._line.evaluation(record)

    def event(self, record: dict[str, Any]) -> None:
        if record.pop("of_any_rank", False) or self._rank == 0:
            self._line.event(record)

    def stop_requested(self) -> bool:
        return self._line.stop_requested()

    def look_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        return True

    def node_goes(self) -> float | None:
        notice = ray.train.get_preemption_info()
        return None if notice is None else (notice.deadline_ms or 0) / 1000

    def flush(self) -> None:
        self._line.flush()

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
