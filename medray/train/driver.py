"""The driver of one run: prepares, starts the workers, watches, evaluates the export and writes what a run leaves.

It neither starts Ray nor touches signals: `cli` does. `fit()` runs in a side thread, where Ray installs no handlers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from medray import storage
from medray.config import Config
from medray.config.checks.method import notes
from medray.config.checks.train import learning_rate_notes
from medray.errors import InputError, RunFailedError, StoppedError
from medray.plan.model_config import ModelDescription
from medray.plan.resources import Supply
from medray.storage import StoragePath
from medray.tracking import LedgerLine
from medray.tracking import ledger as ledgers
from medray.train import data_phase
from medray.train.checks import check, check_weights_and_names, describe_model
from medray.train.engine.optimizers import warmup_steps
from medray.train.export.card import write_card
from medray.train.export.evaluation import TextSample, at_exported_step, evaluate_export
from medray.train.failure import FailureNews, first_failure, lost_controller
from medray.train.interruption import PREEMPTED, STOPPED
from medray.train.nodes import ask_versions, awaited, check_versions
from medray.train.one_machine import OneMachineConfig, on_loopback
from medray.train.prepare import (
    Resources,
    check_memory,
    check_optimizer,
    precision,
    resources,
)
from medray.train.row_lengths import check_positions
from medray.train.run_folder import lock
from medray.train.run_folder.claim import claim
from medray.train.run_folder.files import DATA
from medray.train.run_folder.previous_run import RunResult, finished, folder_of, gpus_of
from medray.train.run_folder.results import early_summary, write_failure, write_results
from medray.train.side_thread import SideThread
from medray.train.stop import StopSwitch, watching
from medray.train.tracking import artifacts, send_unsent, tracking_spec
from medray.train.worker import worker
from medray.train.worker_plan import WorkerPlan

POLL_SECONDS = 0.2
# A report of a checkpoint is a barrier that costs one poll of Ray Train's controller, 2 s by default.
CONTROLLER_POLL_SECONDS = "0.2"
PREEMPTION_POLL_SECONDS = "2"  # Ray's 5 s are much of a notice of 30
ELASTIC_START_SECONDS = 10
CLOSE_SECONDS = 90  # more than the ledger takes in any case
STOP_SECONDS = 15  # in which workers that wait for data may still reach the next step, and save


class Console(Protocol):
    def phase(self, name: str, detail: str = "") -> None: ...
    def show(self, record: dict[str, Any], *, total_steps: int) -> None: ...
    def heartbeat(self) -> None: ...
    def table(self, title: str, rows: list[tuple[str, ...]]) -> None: ...


@dataclass
class Timings:
    """Seconds of a run's parts, summed over the attempts of this driver."""

    began: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - began


def run(
    config: Config,
    *,
    callbacks: Sequence[Any] = (),
    console: Console | None = None,
    stop: StopSwitch | None = None,
    config_file: str | Path | None = None,
    checked: ModelDescription | None = None,
) -> RunResult:
    """Run `config` on the connected Ray cluster to its end, or to a stop that was asked for.

    A finished run is returned as it is. Neither starts Ray nor touches signals.
    callbacks: Ray Train's UserCallbacks, for a search. console: is told what goes on. stop: set it, from any thread, to save
    and end. config_file: the YAML, for a tag in MLflow. checked: what `describe_model` returned, from a caller that has made
    all checks of `check` and knows that the run is not finished; without it both are done here.
    Raises InputError before any worker starts, RunFailedError when the run failed, StoppedError when it was told to stop and
    no worker had anything to save.
    """
    os.umask(0o077)  # what a run leaves holds patients' text
    driver = _Driver(config, list(callbacks), console, stop or StopSwitch(), config_file)
    if checked is None:
        if done := finished(config):
            send_unsent(config, done, driver.phase, config_file)
            return done
        check(config, elsewhere=True, model=False)
        checked = describe_model(config)
        check_weights_and_names(config, checked)
    with lock.held(driver.folder, lambda text: driver.phase("lock", text)):
        try:
            with watching(driver.folder, driver.stop):
                return driver.run(checked)
        except OSError as error:
            raise RunFailedError(
                f"{driver.folder} could not be used ({storage.summary(error)}). Run the same command again to go on from "
                "the newest checkpoint"
            ) from error


class _Driver:
    def __init__(
        self,
        config: Config,
        callbacks: list[Any],
        console: Console | None,
        stop: StopSwitch,
        config_file: str | Path | None = None,
    ) -> None:
        self.config, self.callbacks, self.console, self.stop = config, callbacks, console, stop
        self.config_file = config_file
        self.folder = folder_of(config)
        self.timings = Timings()
        self.steps = 0  # of the whole run, once the data are known
        self.shown = 0  # of the ledger's news
        self.stepping = False  # whether there are workers that will see a stop after their next step
        self.waiting: str | None = None  # what the workers stand still for: they see no stop meanwhile
        self.stop_heard: float | None = None

    def run(self, model: ModelDescription) -> RunResult:
        with awaited(self.config, gpus_of(self.folder / DATA), self) as have:
            return self._run(model, have)

    def _run(self, model: ModelDescription, have: Supply) -> RunResult:
        granted = resources(self.config, have)
        versions = ask_versions()  # answered while the data are read
        bounds = {self.config.cluster.fewest_workers, self.config.cluster.most_workers}
        self.phase(
            "cluster",
            f"{' to '.join(str(bound) for bound in sorted(bounds))} workers of {granted.cpus:g} CPU"
            + (" and 1 GPU" if granted.gpus else "")
            + f" and {granted.threads} threads, {have.cpus:g} CPUs in the cluster",
        )
        chosen = precision(self.config, granted.device)
        check_optimizer(self.config, granted.device)
        for note in notes(self.config):
            self.phase("note", note)
        for note in learning_rate_notes(self.config):
            self.phase("WARNING", note)
        memory = check_memory(self.config, model, have, granted, chosen)
        with self.timings.of("data"):
            encoding = data_phase.begin(self.config, model, self)
            data_phase.check_first_shard(self.config, encoding, self)
            check_positions(self.config, model.config, encoding, self)
            self.steps = data_phase.steps(self.config, encoding, self)
        if (warmup := warmup_steps(self.steps, self.config.train.scheduler)) >= self.steps:
            self.phase("note", f"the learning rate rises over {warmup} steps, and the run has {self.steps}")
        check_versions(versions)
        threads = claim(
            self.config,
            encoding.sets["train"].folder,
            chosen,
            granted.threads,
            lambda note: self.phase("resume", note),
            steps=self.steps,
            gpus=granted.gpus,
        )
        granted = replace(granted, threads=threads)
        plan = WorkerPlan(
            self.config,
            str(self.folder),
            encoding.sets["train"],
            encoding.sets.get("validation"),
            model.config,
            self.steps,
            chosen,
            granted.threads,
        )
        ledger = ledgers.start(str(self.folder), tracking_spec(self.config, self.config_file))
        self.phase("model", memory)
        try:
            outcome = self._fit(plan, granted, ledger, encoding)
            after: dict[str, float] = {}
            samples: list[TextSample] = []
            if outcome["status"] != STOPPED:  # at once: the evaluation below takes a while, and may fail
                write_card(plan, early_summary(plan, outcome), encoding.manifests(self))
            if outcome["status"] != STOPPED and plan.validation is not None:
                self.phase("evaluation", "the export")
                with self.timings.of("evaluate"):
                    after, samples = evaluate_export(plan, granted, self.beat)
                self._tell_last_evaluation(ledger, outcome, after)
        except (InputError, StoppedError) as error:
            self._close(ledger, {"status": STOPPED if isinstance(error, StoppedError) else "failed"}, [])
            raise
        except Exception as error:
            failure = {"status": "failed"}
            with suppress(OSError):  # storage may be why
                failure = write_failure(self.config, str(error))
            self._close(ledger, failure, [])
            raise
        result = write_results(
            plan,
            outcome,
            after,
            samples,
            self.timings.parts,
            time.perf_counter() - self.timings.began,
            encoding.manifests(self),
        )
        self._close(ledger, result.summary, artifacts(self.folder))
        return result

    def _fit(
        self, plan: WorkerPlan, granted: Resources, ledger: Any, encoding: data_phase.Encoding
    ) -> dict[str, Any]:
        """Runs the workers to their end. Ray Train starts a failed group again, and here Ray Train is started again.

        It takes workers that leave for a node that goes as done, and some deaths as its own (`lost_controller`).
        """
        self._set_patience()
        failures = 0
        while True:
            try:
                returned = self._fit_once(plan, granted, ledger, encoding)
            except StoppedError:
                raise
            except Exception as error:
                failures += 1
                if failures > self.config.cluster.max_failures or not lost_controller(error):
                    raise RunFailedError(
                        f"training failed: {first_failure(error)}. Run the same command again to go on from the "
                        "newest checkpoint"
                    ) from error
                self.phase("restart", first_failure(error))
                continue
            if not returned or returned.get("status") != PREEMPTED:
                break
            self.phase("restart", "on the nodes that stay")
        if returned and "input_error" in returned:
            what, file, key, value, fix = returned["input_error"]
            raise InputError(what, file=file, key=key, value=value, fix=fix)
        if returned and "run_error" in returned:
            raise RunFailedError(returned["run_error"])
        if not returned:
            raise RunFailedError("the workers ended without a result")
        return returned

    def _set_patience(self) -> None:
        """Ray Train's times, which it reads from the driver's environment."""
        cluster = self.config.cluster
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", CONTROLLER_POLL_SECONDS)
        os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", PREEMPTION_POLL_SECONDS)
        if on_loopback():  # nobody takes the only node away, and the watcher is one more process that starts
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        elastic = cluster.fewest_workers < cluster.most_workers
        # Resources that an elastic group waits for may be those of a node that has just died: soon count them again.
        patience = min(cluster.start_timeout_seconds, ELASTIC_START_SECONDS if elastic else sys.maxsize)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
        # Of a process that is stopped altogether, which cannot end itself.
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster.hang_seconds)

    def _fit_once(
        self, plan: WorkerPlan, granted: Resources, ledger: Any, encoding: data_phase.Encoding
    ) -> dict[str, Any] | None:
        """Runs Ray Train in a side thread and shows the workers' news until it ends."""
        per_worker = {"CPU": granted.cpus} | ({"GPU": granted.gpus} if granted.gpus else {})
        # Ray takes a range and UserCallbacks too, its annotations do not.
        workers: Any = self.config.cluster.workers
        callbacks: Any = [*self.callbacks, FailureNews(ledger)]
        trainer = TorchTrainer(
            worker,  # type: ignore[arg-type]
            train_loop_config={"plan": plan, "ledger": ledger},
            torch_config=OneMachineConfig() if on_loopback() else None,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=bool(granted.gpus),
                resources_per_worker=per_worker,
            ),
            run_config=RunConfig(
                name=f"attempt-{time.time_ns()}",  # resume looks at our manifests, never at Ray's
                **_ray_storage(self.folder / ".ray"),
                failure_config=FailureConfig(max_failures=self.config.cluster.max_failures),
                callbacks=callbacks,
            ),
        )
        fit, self.stepping = SideThread(trainer.fit), False
        with self.timings.of("fit"):
            while fit.running(POLL_SECONDS):
                self._show(ledger)
                self._forward_stop(ledger)
                encoding.done()
        self._show(ledger)
        returned: dict[str, Any] | None = fit.result().return_value
        return returned

    def _show(self, ledger: Any) -> None:
        self._tell(ledger)
        self.beat()

    def _tell(self, ledger: Any) -> None:
        try:
            news = ray.get(ledger.poll.remote(self.shown), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            news = []
        for record in news:
            self.shown = record["index"]
            self.hear(record)
            if self.console:
                self.console.show(record, total_steps=self.steps)

    def hear(self, record: dict[str, Any]) -> None:
        """What news of the workers mean for the driver."""
        if record["kind"] in ("step", "phase", "failure", "waiting"):
            self.waiting = str(record["text"]) if record["kind"] == "waiting" else None
        if record["kind"] == "step":
            self.timings.parts.setdefault("first_step", time.perf_counter() - self.timings.began)
        elif record["kind"] == "failure":
            self.stepping = False
        elif record["kind"] == "phase" and record["name"] in ("training", "export"):
            self.stepping = record["name"] == "training"  # before the export all has been saved

    def _forward_stop(self, ledger: Any) -> None:
        if self.stop.reason:
            ledger.request_stop.remote(self.stop.reason)

    def _tell_last_evaluation(self, ledger: Any, outcome: dict[str, Any], after: dict[str, float]) -> None:
        """Log the export's metrics as the evaluation of the step that it has the weights of, under the same names."""
        if not after:
            return
        record = {"step": outcome["exported"], "metrics": at_exported_step(outcome["evaluated"], after)}
        try:
            LedgerLine(ledger).last_evaluation(record)
        except (ray.exceptions.RayError, TimeoutError, OSError):
            self.phase("tracking", "the last evaluation could not be logged; summary.json has it")
        self._tell(ledger)

    def _close(self, ledger: Any, summary: dict[str, Any], artifacts: list[str]) -> None:
        try:
            ray.get(ledger.close.remote(summary, artifacts), timeout=CLOSE_SECONDS)
        except Exception:  # tracking never decides how a run ends
            self.phase("tracking", "could not be closed")
        self._tell(ledger)

    def phase(self, name: str, detail: str = "") -> None:
        if self.console:
            self.console.phase(name, detail)

    def beat(self) -> None:
        """Raises StoppedError where a stop was asked for that no worker would see: data are prepared, a group waits for
        a node, an export is evaluated."""
        if self.console:
            self.console.heartbeat()
        if not self.stop.reason:
            return
        self.stop_heard = self.stop_heard or time.monotonic()
        if self.waiting and time.monotonic() - self.stop_heard > STOP_SECONDS:
            raise StoppedError(
                f"stopped while the workers waited for {self.waiting}. Run the same command again to go on from the newest "
                "checkpoint"
            )
        if not self.stepping:
            raise StoppedError(
                "stopped while no worker was training: there was nothing new to save. Run the same command again to go on"
            )


def _ray_storage(folder: StoragePath) -> dict[str, Any]:
    """Ray Train's own notes; it wants a path of a file system of pyarrow."""
    if isinstance(folder, Path):
        return {"storage_path": str(folder)}
    return {"storage_path": folder.key, "storage_filesystem": folder.filesystem}
