"""The use of Ray Train: it runs the workers from their start to their result, and restarts them where that may help.

`fit()` of Ray Train runs in a side thread, where Ray installs no signal handlers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from medray import storage
from medray.config.cluster import ClusterConfig
from medray.errors import MedrayError, RunFailedError, StoppedError
from medray.storage import StoragePath
from medray.train.driver.data_phase import Encoding
from medray.train.driver.observer import Observer, RunObserver
from medray.train.driver.one_machine import OneMachineConfig, on_loopback
from medray.train.driver.run_ledger import RunLedger
from medray.train.failure import FailureNews, first_failure, lost_controller
from medray.train.loop.finish import WorkerResult
from medray.train.loop.interruption import PREEMPTED
from medray.train.loop.worker import worker
from medray.train.prepare import Resources
from medray.train.side_thread import SideThread
from medray.train.worker_plan import WorkerPlan

Returned = WorkerResult | MedrayError | None  # of rank 0

POLL_SECONDS = 0.2
# A report of a checkpoint is a barrier that costs one poll of Ray Train's controller, 2 s by default.
CONTROLLER_POLL_SECONDS = "0.2"
PREEMPTION_POLL_SECONDS = "2"  # Ray polls every 5 s, which is too slow for a 30 s preemption notice
ELASTIC_START_SECONDS = 10


def fit(
    plan: WorkerPlan,
    granted: Resources,
    ledger: RunLedger,
    encoding: Encoding,
    observer: RunObserver,
    callbacks: Sequence[Any],
) -> WorkerResult:
    """Run the workers of a plan to their end and return the result of rank 0.

    Raises InputError and RunFailedError, including those that a worker has returned.
    """
    set_ray_train_times(plan.config.cluster)
    returned = with_restarts(
        lambda: fit_once(plan, granted, ledger, encoding, observer, callbacks),
        plan.config.cluster.max_failures,
        observer,
    )
    return result_of(returned)


def with_restarts(start: Callable[[], Returned], max_failures: int, observer: Observer) -> Returned:
    """Start Ray Train, and start it again if its workers left a node or if its controller was lost.

    Ray Train restarts a failed group. But it treats workers that leave a node as finished, and it does not survive some
    deaths (`lost_controller`).
    """
    failures = 0
    while True:
        try:
            returned = start()
        except StoppedError:
            raise
        except Exception as error:
            failures += 1
            if failures > max_failures or not lost_controller(error):
                raise RunFailedError(
                    f"training failed: {first_failure(error)}. Run the same command again to resume from the newest "
                    "checkpoint"
                ) from error
            observer.phase("restart", first_failure(error))
            continue
        if not isinstance(returned, WorkerResult) or returned.status != PREEMPTED:
            return returned
        observer.phase("restart", "on the nodes that stay")


def result_of(returned: Returned) -> WorkerResult:
    """Return the result of rank 0, or raise the error that a worker returned as a value."""
    if returned is None:
        raise RunFailedError("the workers ended without a result. Run the same command again to resume")
    if isinstance(returned, MedrayError):
        raise returned
    return returned


def set_ray_train_times(cluster: ClusterConfig) -> None:
    """Set Ray Train's intervals and time limits, which it reads from the driver's environment."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", CONTROLLER_POLL_SECONDS)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", PREEMPTION_POLL_SECONDS)
    if on_loopback():  # nobody takes the only node away, and the watcher is one more process that starts
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    elastic = cluster.fewest_workers < cluster.most_workers
    # The resources that an elastic group waits for may be those of a node that has just died, so they are soon counted again.
    limit = min(cluster.start_timeout_seconds, ELASTIC_START_SECONDS if elastic else sys.maxsize)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(limit)
    # For a suspended process, which cannot end itself.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster.hang_seconds)


def fit_once(
    plan: WorkerPlan,
    granted: Resources,
    ledger: RunLedger,
    encoding: Encoding,
    observer: RunObserver,
    callbacks: Sequence[Any],
) -> Returned:
    """Run Ray Train in a side thread and show the workers' news until it ends. Returns what rank 0 returned."""
    config = plan.config
    per_worker = {"CPU": granted.cpus} | ({"GPU": granted.gpus} if granted.gpus else {})
    # Ray accepts a range and UserCallbacks too, but its annotations do not.
    workers: Any = config.cluster.workers
    all_callbacks: Any = [*callbacks, FailureNews(ledger.actor)]
    trainer = TorchTrainer(
        worker,  # type: ignore[arg-type]
        train_loop_config={"plan": plan, "ledger": ledger.actor},
        torch_config=OneMachineConfig() if on_loopback() else None,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(granted.gpus),
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=f"attempt-{time.time_ns()}",  # resume looks at our manifests, never at Ray's
            **_ray_storage(storage.at(plan.run_folder) / ".ray"),
            failure_config=FailureConfig(max_failures=config.cluster.max_failures),
            callbacks=all_callbacks,
        ),
    )
    thread = SideThread(trainer.fit)
    observer.stepping = False
    while thread.running(POLL_SECONDS):
        ledger.show_news()
        observer.beat()
        ledger.forward_stop()
        encoding.done()
    ledger.show_news()
    observer.beat()
    returned: Returned = thread.result().return_value
    return returned


def _ray_storage(folder: StoragePath) -> dict[str, Any]:
    """Return the storage arguments for Ray Train's own files; it needs a path on a pyarrow file system."""
    if isinstance(folder, Path):
        return {"storage_path": str(folder)}
    return {"storage_path": folder.key, "storage_filesystem": folder.filesystem}
