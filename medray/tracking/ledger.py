"""The ledger of one run: it writes steps and evaluations to disk, feeds MLflow, holds the stop flag and serves the console.

The driver starts it with `start` as a 0-CPU actor on its own node. Rank 0 sends one record per step and does not wait for
an answer, so calls must be fast and in order: the actor runs one call at a time, a step costs one appended line, and MLflow
has its own thread (`mlflow_log`). While the disk is full, records wait in memory, and the next call writes them.

The death of the ledger never stops training. Ray restarts it, and it reads its state from the run folder. Records that were
sent while it was down, or that it held while the disk was full, are lost with the process: so rank 0 keeps its records until
a `flush` has confirmed that they are on disk, and sends them again with each flush. A stop request and unread console lines
are lost.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from medray import storage
from medray.tracking.mlflow_log import MlflowLog
from medray.tracking.mlflow_run import TrackingSpec
from medray.tracking.step_file import Record, SteadyClock, StepFile

if TYPE_CHECKING:
    import ray.actor

__all__ = ["EVALS_FILE", "STEPS_FILE", "Ledger", "TrackingSpec", "start"]

STEPS_FILE = "steps.jsonl"
EVALS_FILE = "evals.jsonl"
KEPT_RECORDS = 20_000  # for the console; it polls several times a second
RESTARTS = -1  # without limit: a restart takes a second, and training continues meanwhile


def _merge_metrics(old: Record, new: Record) -> Record:
    return {**old, **new, "metrics": {**old.get("metrics", {}), **new["metrics"]}}


class Ledger:
    """The actor class that keeps the records of one run.

    Its methods must be called one at a time; `start` creates the actor.
    """

    def __init__(self, run_folder: str, tracking: TrackingSpec) -> None:
        os.umask(
            0o077
        )  # the actor's process has the umask of the cluster, which other people may have started
        self._folder, self._tracking = storage.at(run_folder), tracking
        with suppress(
            OSError
        ):  # the first write reports it; a ledger that failed to start could not wait for storage
            self._folder.mkdir(parents=True, exist_ok=True)
        self._records: deque[Record] = deque(maxlen=KEPT_RECORDS)
        self._index = 0
        self._lock = threading.Lock()  # the MLflow thread may add a message
        self._clock = SteadyClock()
        self._stop: str | None = None
        self._mlflow: MlflowLog | None = None
        self._closed = False
        self._failing: set[str] = set()  # names of files that cannot be written at the moment
        self._steps = StepFile(self._folder / STEPS_FILE)
        self._evals = StepFile(self._folder / EVALS_FILE, merge=_merge_metrics)
        for file in (self._steps, self._evals):
            if file.unreadable:
                self._say(
                    f"{file.path.name}: {file.unreadable} unreadable line(s) dropped, probably cut off by a kill; the run continues"
                )

    def open(self, *, resumed_step: int) -> None:
        """Drop the steps and evaluations after the checkpoint at which the worker loop starts or restarts.

        resumed_step: the checkpoint's number of optimizer steps; 0 for a fresh start.
        """
        for file in (self._steps, self._evals):
            try:
                file.cut(resumed_step)
            except OSError as error:
                self._trouble(file, error)
        self._closed = False
        self._feed()
        if resumed_step:
            self._say(f"resumed after step {resumed_step}")

    def step(self, record: dict[str, Any]) -> None:
        """Write the record of one optimizer step to steps.jsonl, replacing an earlier record of the same step."""
        self._keep("step", record)
        if mlflow := self._feed():
            mlflow.step(record)
        self._write(self._steps, [record])

    def evaluation(self, record: dict[str, Any]) -> None:
        """Write `{"step": int, "metrics": {name: float}}` to evals.jsonl.

        Metrics of the same step are merged into one record.
        """
        self._keep("evaluation", record)
        if mlflow := self._feed():
            mlflow.evaluation(record)
        self._write(self._evals, [record])

    def event(self, record: dict[str, Any]) -> None:
        """Keep an event for the console, `{"kind": "phase" | "checkpoint" | "message" | "failure"}`.

        Events are not written to disk.
        """
        self._keep(str(record.get("kind", "message")), record)

    def flush(
        self, steps: Sequence[dict[str, Any]] = (), evaluations: Sequence[dict[str, Any]] = ()
    ) -> str | None:
        """Write all records to disk.

        Return None on success; otherwise the system's error, and the caller should try again later.

        steps, evaluations: the records that the caller sent since the last successful flush, in order. If the ledger
        was restarted and lacks some of them, they are added now.
        """
        missed = [record for record in steps if int(record["step"]) not in self._steps]
        for record in missed:
            self._keep("step", record)
            if mlflow := self._feed():
                mlflow.step(record)
        for record in evaluations:
            if int(record["step"]) not in self._evals:
                self._keep("evaluation", record)
            if mlflow := self._feed():
                mlflow.evaluation(record)
        self._write(self._steps, missed)
        self._write(self._evals, evaluations)
        said = [self._sync(file) for file in (self._steps, self._evals)]
        return next((text for text in said if text), None)

    def request_stop(self, reason: str) -> None:
        """Ask the worker loop to save a checkpoint and stop. Only the first reason is kept, even if the loop restarts."""
        if self._stop is None:
            self._stop = reason

    def stop_reason(self) -> str | None:
        """Return the reason why the worker loop should save and stop, or None. Rank 0 asks once per step."""
        return self._stop

    def poll(self, after: int) -> list[dict[str, Any]]:
        """Return steps, evaluations and events with an index above `after`, in order. Indices begin at 1, so 0 returns all.

        Each record has "index", "kind" and "time" (seconds since the epoch) in addition to its own keys. If `after` is
        ahead of the ledger, the ledger was restarted, and every kept record is returned.
        """
        with self._lock:
            first = 0 if after > self._index else after
            return [dict(record) for record in self._records if record["index"] > first]

    def mlflow_run_id(self) -> str | None:
        """Return the id of the MLflow run, or None as long as MLflow has not answered."""
        return self._mlflow.run_id if self._mlflow else None

    def close(self, summary: dict[str, Any], artifacts: list[str]) -> None:
        """Write everything to disk, send the numbers of `summary` and the artifacts to MLflow, and end the MLflow run.

        This takes at most 20 seconds, or 60 if MLflow is a SQLite file.

        summary: the content of summary.json; its "status" (done, stopped or failed) becomes the status of the MLflow
        run.
        artifacts: absolute paths of files to send. Without `show_text`, files with text of records are left out.
        """
        self.flush()
        if not self._closed and self._mlflow is not None:
            self._mlflow.close(summary, artifacts)
        self._closed = True
        for file in (self._steps, self._evals):
            if self._sync(file):
                self._say(
                    f"{file.path.name} lacks the last {file.pending} record(s), because the file cannot be written; check the disk"
                )

    def send_unsent(self, summary: dict[str, Any], artifacts: list[str]) -> bool:
        """Send what MLflow has not received yet from a run that has already ended.

        Return whether MLflow now has everything.
        """
        mlflow = self._feed()
        self.close(summary, artifacts)
        return mlflow is not None and mlflow.finished

    def _feed(self) -> MlflowLog | None:
        """Return MLflow's queue. It begins with the files' records: an earlier start may have died before it sent them."""
        if not self._tracking.enabled or (self._closed and self._mlflow is not None):
            return None
        if self._mlflow is None or self._mlflow.closed:
            self._mlflow = MlflowLog(self._folder, self._tracking, self._say, self._stored, self._clock)
        return self._mlflow

    def _stored(self) -> tuple[list[Record], list[Record]]:
        """Return the steps and evaluations so far. The MLflow thread calls this too."""
        return self._steps.records(), self._evals.records()

    def _write(self, file: StepFile, records: Sequence[Record]) -> None:
        """Write records. Nobody waits for the result, so an error is reported as a message, once, and so is its end."""
        try:
            file.put(*records)
            self._recovered(file)
        except OSError as error:
            self._trouble(file, error)

    def _sync(self, file: StepFile) -> str | None:
        try:
            file.sync()
            self._recovered(file)
        except OSError as error:
            self._trouble(file, error)
            return f"{file.path.name}: {storage.summary(error)}"
        return None

    def _trouble(self, file: StepFile, error: OSError) -> None:
        if file.path.name not in self._failing:
            self._failing.add(file.path.name)
            why = storage.summary(error)
            self._say(
                f"{file.path.name} cannot be written: {why}. Training continues and retries with each step; check the disk."
            )

    def _recovered(self, file: StepFile) -> None:
        if file.path.name in self._failing:
            self._failing.remove(file.path.name)
            self._say(f"{file.path.name} is writable again, and no record is missing")

    def _keep(self, kind: str, record: Record) -> None:
        with self._lock:
            self._index += 1
            self._records.append({**record, "kind": kind, "index": self._index, "time": self._clock.now()})

    def _say(self, text: str) -> None:
        self._keep("message", {"text": text})


def start(run_folder: str, tracking: TrackingSpec) -> ray.actor.ActorHandle[Ledger]:
    """Start the ledger as an actor without CPUs on the driver's node. Ray must be connected.

    The actor runs one call at a time (max_concurrency 1): with more threads, two steps could swap their order.
    """
    import ray

    # A label selector is used because Ray ignores a soft node affinity for an actor without CPUs.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    actor = ray.remote(Ledger).options(
        num_cpus=0, max_concurrency=1, max_restarts=RESTARTS, label_selector=here
    )
    handle = actor.remote(run_folder, tracking)
    return cast("ray.actor.ActorHandle[Ledger]", handle)
