"""The ledger of one run: its steps and evaluations on disk, its feed to MLflow, its stop flag, and what the console reads.

The driver makes it a 0-CPU actor on its own node with `start`. Rank 0 sends a record a step without waiting for an answer,
so nothing here may be slow or out of order: the actor runs one call at a time, a step costs one appended line, and MLflow
has a thread of its own (`mlflow_log`). While the disk is full, records wait in memory, and the next call writes them.

The ledger's death never stops training. Ray starts it again, and what it knew is read back from the run folder. What it was
sent while it was away, or held while the disk was full, is gone with it: so rank 0 keeps its records until a `flush` has
said that they are on disk, and hands them over again with each. A stop request and unread console lines are lost.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.tracking.mlflow_log import MlflowLog, TrackingSpec
from medray.tracking.step_file import Record, SteadyClock, StepFile

if TYPE_CHECKING:
    import ray.actor

__all__ = ["EVALS_FILE", "STEPS_FILE", "Ledger", "TrackingSpec", "start"]

STEPS_FILE = "steps.jsonl"
EVALS_FILE = "evals.jsonl"
KEPT_RECORDS = 20_000  # for the console; it polls several times a second
RESTARTS = -1  # without limit: each costs a second, and the run goes on meanwhile


def _merge_metrics(old: Record, new: Record) -> Record:
    return {**old, **new, "metrics": {**old.get("metrics", {}), **new["metrics"]}}


class Ledger:
    """What a run tells, in one place. Methods are called one at a time; `start` makes it an actor."""

    def __init__(self, run_folder: str, tracking: TrackingSpec) -> None:
        os.umask(0o077)  # a process of its own, which a cluster that others started gives the modes of theirs
        self._folder, self._tracking = storage.at(run_folder), tracking
        with suppress(
            OSError
        ):  # said by the first write; a ledger that does not start could not wait for storage
            self._folder.mkdir(parents=True, exist_ok=True)
        self._records: deque[Record] = deque(maxlen=KEPT_RECORDS)
        self._index = 0
        self._lock = threading.Lock()  # MLflow's thread may leave a message
        self._clock = SteadyClock()
        self._stop: str | None = None
        self._mlflow: MlflowLog | None = None
        self._closed = False
        self._failing: set[str] = set()  # names of files that cannot be written now
        self._steps = StepFile(self._folder / STEPS_FILE)
        self._evals = StepFile(self._folder / EVALS_FILE, merge=_merge_metrics)
        for file in (self._steps, self._evals):
            if file.unreadable:
                self._say(
                    f"{file.path.name}: {file.unreadable} unreadable line(s) dropped (cut off while being written)"
                )

    def open(self, *, resumed_step: int) -> None:
        """The worker loop starts or restarts at a checkpoint: forget the steps and evaluations after it.

        resumed_step: optimizer steps that the checkpoint has; 0 for a fresh start.
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
        """One optimizer step: a line of steps.jsonl, in the place of a line of the same step."""
        self._keep("step", record)
        if mlflow := self._feed():
            mlflow.step(record)
        self._write(self._steps, [record])

    def evaluation(self, record: dict[str, Any]) -> None:
        """`{"step": int, "metrics": {name: float}}`: a line of evals.jsonl; metrics of the same step are joined."""
        self._keep("evaluation", record)
        if mlflow := self._feed():
            mlflow.evaluation(record)
        self._write(self._evals, [record])

    def event(self, record: dict[str, Any]) -> None:
        """`{"kind": "phase" | "checkpoint" | "message" | "failure"}`: for the console, not kept on disk."""
        self._keep(str(record.get("kind", "message")), record)

    def flush(
        self, steps: Sequence[dict[str, Any]] = (), evaluations: Sequence[dict[str, Any]] = ()
    ) -> str | None:
        """Put all records on the disk. None when they are there, else what the system said: ask again later.

        steps, evaluations: what the caller sent since the last None, in order; those that the ledger lacks, because it
        was started again meanwhile, are taken as if they came now.
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
        """Ask the worker loop to save and stop. The first reason stays, through restarts of the loop too."""
        if self._stop is None:
            self._stop = reason

    def stop_reason(self) -> str | None:
        """Why the loop should save and stop, or None. Rank 0 reads it once a step."""
        return self._stop

    def poll(self, after: int) -> list[dict[str, Any]]:
        """Steps, evaluations and events with an index above `after`, in order; indices begin at 1, so 0 asks for all.

        Each has "index", "kind" and "time" (seconds since the epoch) besides its own keys. Every record kept is returned
        when `after` is ahead of the ledger, which means that the ledger was started again.
        """
        with self._lock:
            first = 0 if after > self._index else after
            return [dict(record) for record in self._records if record["index"] > first]

    def mlflow_run_id(self) -> str | None:
        """The MLflow run, as soon as MLflow has answered."""
        return self._mlflow.run_id if self._mlflow else None

    def close(self, summary: dict[str, Any], artifacts: list[str]) -> None:
        """Flush everything; give MLflow the summary's numbers and the files named, and end its run. At most 20 seconds, or
        60 for a SQLite file.

        summary: as in summary.json; "status" done, stopped or failed decides how the MLflow run ends.
        artifacts: absolute paths. Without `show_text` only files that hold no text of records are sent.
        """
        self.flush()
        if not self._closed and self._mlflow is not None:
            self._mlflow.close(summary, artifacts)
        self._closed = True
        for file in (self._steps, self._evals):
            if self._sync(file):
                self._say(
                    f"{file.path.name} lacks the last {file.pending} record(s): the file cannot be written"
                )

    def send_unsent(self, summary: dict[str, Any], artifacts: list[str]) -> bool:
        """`close` of a run that had ended before MLflow had it. Whether MLflow has everything now."""
        mlflow = self._feed()
        self.close(summary, artifacts)
        return mlflow is not None and mlflow.finished

    def _feed(self) -> MlflowLog | None:
        """MLflow's queue. It begins with what the files hold: an earlier start may have died before MLflow had it."""
        if not self._tracking.enabled or (self._closed and self._mlflow is not None):
            return None
        if self._mlflow is None or self._mlflow.closed:
            self._mlflow = MlflowLog(self._folder, self._tracking, self._say, self._stored, self._clock)
        return self._mlflow

    def _stored(self) -> tuple[list[Record], list[Record]]:
        """Steps and evaluations so far. MLflow's thread calls it too."""
        return self._steps.records(), self._evals.records()

    def _write(self, file: StepFile, records: Sequence[Record]) -> None:
        """Nobody waits for this call's answer: trouble is said where it is seen, once, and so is its end."""
        try:
            file.put(*records)
            self._mended(file)
        except OSError as error:
            self._trouble(file, error)

    def _sync(self, file: StepFile) -> str | None:
        try:
            file.sync()
            self._mended(file)
        except OSError as error:
            self._trouble(file, error)
            return f"{file.path.name}: {storage.summary(error)}"
        return None

    def _trouble(self, file: StepFile, error: OSError) -> None:
        if file.path.name not in self._failing:
            self._failing.add(file.path.name)
            why = storage.summary(error)
            self._say(f"{file.path.name} cannot be written and is tried again with each step: {why}")

    def _mended(self, file: StepFile) -> None:
        if file.path.name in self._failing:
            self._failing.remove(file.path.name)
            self._say(f"{file.path.name} is written again, and nothing is missing")

    def _keep(self, kind: str, record: Record) -> None:
        with self._lock:
            self._index += 1
            self._records.append({**record, "kind": kind, "index": self._index, "time": self._clock.now()})

    def _say(self, text: str) -> None:
        self._keep("message", {"text": text})


def start(run_folder: str, tracking: TrackingSpec) -> ray.actor.ActorHandle:
    """The ledger as an actor without CPUs on the driver's node. Ray must be connected.

    One call at a time (max_concurrency 1): with more threads two steps could change places.
    """
    import ray

    # By label: of an actor without CPUs, Ray does not heed a soft affinity.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    actor = ray.remote(Ledger).options(
        num_cpus=0, max_concurrency=1, max_restarts=RESTARTS, label_selector=here
    )
    handle: Any = actor.remote(run_folder, tracking)
    return handle
