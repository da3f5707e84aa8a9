"""The worker loop inside Ray Train. Its reporter sends records to the ledger, and no step waits for an answer."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import ray
import ray.train

from medray.data.shards.seal import DamagedShardError
from medray.errors import InputError, MedrayError, RunFailedError
from medray.tracking.ledger_line import LedgerLine
from medray.train.engine import choose_accelerator
from medray.train.loop.finish import WorkerResult
from medray.train.loop.training import run
from medray.train.worker_plan import WorkerPlan

LOOK_SECONDS = 1.0  # a look is a barrier of all ranks, through an actor, which is too slow for every step


class LedgerReporter:
    """A reporter that sends records of rank 0 to the ledger actor without waiting. The ledger's death never stops training."""

    def __init__(self, ledger: Any) -> None:
        self._line = LedgerLine(ledger)
        self._rank = ray.train.get_context().get_world_rank()
        self._next_check = 0.0

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

    def preemption_check_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + LOOK_SECONDS
        return True

    def preemption_time(self) -> float | None:
        notice = ray.train.get_preemption_info()
        return None if notice is None else (notice.deadline_ms or 0) / 1000

    def flush(self) -> None:
        self._line.flush()

    def sync(self, metrics: dict[str, Any]) -> None:
        ray.train.report(metrics)


def worker(payload: dict[str, Any]) -> WorkerResult | MedrayError:
    """Train on one rank; TorchTrainer calls this. Errors that medray explains are returned, because a retry fixes none."""
    plan: WorkerPlan = payload["plan"]
    import_libraries(plan, ray.train.get_context().get_world_size())
    try:
        return run(plan, LedgerReporter(payload["ledger"]))
    except DamagedShardError as error:
        # Other ranks may have read the shard a moment earlier and wait for this rank. Ray ends them,
        # and the next start reports the reason.
        if ray.train.get_context().get_world_size() > 1:
            raise
        return RunFailedError(str(error))
    except InputError as error:
        return error
    except MedrayError as error:
        return RunFailedError(str(error))


def import_libraries(plan: WorkerPlan, world_size: int) -> None:
    """Import the libraries that a rank needs, quickly: imports take most of the time of a restart.

    Imported objects live as long as the process, so the garbage collector is off meanwhile: it would spend a quarter of
    the time scanning them for nothing. DeepSpeed and peft import mlflow and bitsandbytes if they are installed; None in
    `sys.modules` makes them look uninstalled.
    """
    train, quantized = plan.config.train, plan.config.model.quantization != "none"
    unused = ["mlflow"] if quantized or train.optimizer.name != "adamw" else ["mlflow", "bitsandbytes"]
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    gc.disable()
    try:
        import transformers.modeling_utils  # noqa: F401

        if not plan.plain_torch(world_size):
            choose_accelerator()
            import deepspeed  # noqa: F401
        if plan.config.peft.type != "none":
            import peft  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
