"""The connection to MLflow: a queue, and one thread that sends it in batches, so that training never waits.

After the first step, the thread imports mlflow, creates or resumes the run and sends the queue every two seconds.
While the server is down or slow, points wait in the queue and the thread retries after a growing pause. If the server
is still down at the end, the thread gives up with one message. Training never sees an error.

Nothing is lost, because the run folder has all records: points that an earlier start could not send, or that a full
queue dropped, are read from there. MLflow only appends to a metric's history, so a repeated step would become a second
point. The thread therefore asks once which steps MLflow has, and sends only the others. A point keeps the timestamp of
its first attempt, so a batch that arrived although its answer was lost is not duplicated either.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.storage import StoragePath
from medray.tracking.mlflow_names import (
    final_metrics,
    final_tags,
    metric_name,
    numbers,
    step_metrics,
    without_userinfo,
)
from medray.tracking.mlflow_run import PERMANENT, RunIdentity, TrackingSpec, open_client
from medray.tracking.registry import register
from medray.tracking.step_file import SteadyClock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

STEP_KEY = "train/loss"  # the history of this metric tells which steps MLflow has
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
WITHOUT_TEXT = frozenset({"config.yaml", "summary.json", "steps.jsonl", "evals.jsonl", "report.html"})

FLUSH_SECONDS = 2.0
BACKOFF_SECONDS = (0.5, 30.0)  # first and longest pause after a failure
FIRST_STEP_SECONDS = 120.0  # after this time the run is created, because a first step may be slow
CLOSE_SECONDS = 18.0  # for a server that answers
# A SQLite file on this machine never hangs, but creating one takes many seconds when the CPUs are busy.
LOCAL_CLOSE_SECONDS = 60.0
LAST_TRIES_DOWN = 3  # attempts while closing, for a server that has never answered
QUEUE_POINTS = 50_000
BATCH_METRICS = 900  # MLflow accepts at most 1,000 metrics per batch

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class _Point:
    step: int
    metrics: dict[str, float]
    time_ms: int
    is_step: bool


class MlflowLog:
    """One MLflow run and the thread that sends records to it.

    message: called with one sentence if points or files could not be sent, from `close` or from the thread.
    stored: called by the thread; returns the steps and evaluations in the run folder. clock: provides the timestamps.
    """

    def __init__(
        self,
        run_folder: StoragePath,
        spec: TrackingSpec,
        message: Callable[[str], None],
        stored: Callable[[], tuple[Records, Records]],
        clock: SteadyClock,
    ) -> None:
        self.run_id: str | None = None
        self._folder = run_folder
        self._spec, self._message, self._stored, self._clock = spec, message, stored, clock
        self._identity = RunIdentity(run_folder, spec, message)
        self._began_ms, self._shift_ms = clock.now_ms(), 0
        self._queue: deque[_Point] = deque()
        self._lock = threading.Lock()
        self._begun, self._closing = threading.Event(), threading.Event()
        self._summary: dict[str, Any] = {}
        self._artifacts: list[str] = []  # files that MLflow lacks
        self._ended_ms = 0
        self._client: MlflowClient | None = None
        self._resumed = False
        self._there: dict[str, set[int]] = {}  # metric name → steps that MLflow has
        self._behind = True  # the files have points that the queue lacks
        self._overflow = self._refused = 0
        self._error = ""  # the type of the newest failure: its text could contain a password
        self._ended = self._given_up = self._told_away = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def step(self, record: dict[str, Any]) -> None:
        """Queue the record of a step. The first record starts the connection."""
        self._begun.set()
        self._put(_step_point(record, self._clock.now_ms()))

    def evaluation(self, record: dict[str, Any]) -> None:
        """Queue the evaluation `{"step", "metrics"}`; its metrics are named eval/<name> in MLflow."""
        self._put(_evaluation_point(record, self._clock.now_ms()))

    def close(self, summary: dict[str, Any], artifacts: list[str]) -> None:
        """Send the queue and the final metrics, end the MLflow run, then send the files.

        This takes at most CLOSE_SECONDS, or LOCAL_CLOSE_SECONDS if MLflow is a SQLite file.
        """
        self._summary, self._artifacts, self._ended_ms = summary, list(artifacts), self._clock.now_ms()
        self._closing.set()
        self._begun.set()
        local = self._spec.uri.startswith("sqlite:")
        self._thread.join(LOCAL_CLOSE_SECONDS if local else CLOSE_SECONDS)
        self._given_up = True
        if not self.finished:
            with self._lock:
                waiting = {(point.is_step, point.step) for point in self._queue}
                unsent = len(waiting) + self._overflow + self._refused
            lacking = [storage.at(path).name for path in self._artifacts]
            if unsent or not (lacking or self._behind):
                lacking.insert(0, f"{unsent} records")
            elif self._behind:
                lacking.insert(0, "the records of an earlier start")
            ended = "" if self._ended else ", and its run was not ended"
            why = f" ({self._error})" if self._error else ""
            self._message(
                f"MLflow at {without_userinfo(self._spec.uri)} did not receive {', '.join(lacking)}{why}{ended}. "
                "They are in the run folder; start the run again to send them."
            )

    @property
    def finished(self) -> bool:
        """Return whether MLflow has received everything and its run has ended."""
        return self._ended and not self._refused and not self._artifacts

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def _put(self, point: _Point) -> None:
        with self._lock:
            if len(self._queue) >= QUEUE_POINTS:
                self._overflow += 1
                self._behind = True
            else:
                self._queue.append(point)

    # The thread.

    def _work(self) -> None:
        # Importing mlflow takes CPU seconds that the workers need until they train.
        self._identity.note_unsent()
        self._begun.wait(FIRST_STEP_SECONDS)
        pause, first = BACKOFF_SECONDS[0], BACKOFF_SECONDS[0]
        last_tries = 0
        while not self._given_up:
            # Read this before sending, so that everything queued before `close` is sent before the run is ended.
            closing = self._closing.is_set()
            try:
                self._connect()
                while self._queue or self._behind:
                    self._refill()
                    self._drain()
                    if self._given_up:
                        return
                if closing:
                    self._finish()
                    return
                pause = first
                self._closing.wait(FLUSH_SECONDS)
            except (
                Exception
            ) as error:  # training continues after any error; close() reports how much is missing
                self._error = type(error).__name__
                if self._client is None and not (self._told_away or self._closing.is_set()):
                    self._told_away = True
                    uri = without_userinfo(self._spec.uri)
                    self._message(
                        f"MLflow at {uri} does not answer ({self._error}). Training continues, and sending is retried. Check the server."
                    )
                self._forget_lost_run(error)
                if not self._closing.is_set():
                    self._closing.wait(pause)
                    pause = min(2 * pause, BACKOFF_SECONDS[1])
                    continue
                last_tries += 1
                if self._client is None and last_tries >= LAST_TRIES_DOWN:
                    return
                time.sleep(first)

    def _connect(self) -> None:
        if self._client is not None:
            return
        self._identity.note_unsent()
        client = open_client(self._spec.uri)
        run_id, self._resumed = self._identity.open(client, self._began_ms, lambda: self._given_up)
        if self._resumed:
            history = client.get_metric_history(run_id, STEP_KEY)
            self._there[STEP_KEY] = {int(metric.step) for metric in history}
            # If the clock was set back between two starts, later steps must still get later timestamps.
            latest = max((int(metric.timestamp) for metric in history), default=0)
            self._shift_ms = max(self._shift_ms, latest + 1 - self._began_ms)
        self.run_id, self._client = run_id, client

    def _connected(self) -> tuple[MlflowClient, str]:
        assert self._client is not None
        assert self.run_id is not None
        return self._client, self.run_id

    def _forget_lost_run(self, error: Exception) -> None:
        """Create another run and send everything to it, if the server lost the run or somebody deleted it."""
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST" and self._client is not None:
            self._client, self._there, self._behind = None, {}, True

    def _refill(self) -> None:
        """Put points that the files have and MLflow lacks at the front of the queue."""
        with self._lock:
            behind, overflow = self._behind, self._overflow
            self._behind, self._overflow = False, 0
        if not behind:
            return
        try:
            steps, evaluations = self._stored()
            with self._lock:
                first = self._queue[0].time_ms if self._queue else self._clock.now_ms()
            points = [_step_point(record, first) for record in steps]
            points += [_evaluation_point(record, first) for record in evaluations]
            lacking = [point for point in points if self._new(point, self._there)]
        except Exception:
            with self._lock:
                self._behind, self._overflow = True, self._overflow + overflow
            raise
        with self._lock:
            self._queue.extendleft(reversed(lacking))

    def _drain(self) -> None:
        """Send the queue batch by batch. If MLflow calls a batch malformed, only the malformed point is dropped."""
        from mlflow.exceptions import MlflowException

        client, run_id = self._connected()
        most = BATCH_METRICS
        while not self._given_up:
            points, metrics = self._batch(most)
            if not points:
                return
            try:
                if metrics:
                    client.log_batch(run_id, metrics=metrics)
            except MlflowException as error:
                if error.error_code not in PERMANENT:
                    raise
                if len(points) > 1:
                    most = len(points) // 2
                    continue
                self._refused += 1
            for point in points:
                for gate in self._new(point, self._there):
                    self._there[gate].add(point.step)
            with self._lock:
                for _ in points:
                    self._queue.popleft()
            most = min(2 * most, BATCH_METRICS)

    def _batch(self, most: int) -> tuple[list[_Point], list[Metric]]:
        """Return at most `most` of the first points of the queue, and those of their metrics that MLflow lacks."""
        from mlflow.entities import Metric

        with self._lock:
            points = list(islice(self._queue, most))
        metrics: list[Metric] = []
        taken: set[tuple[str, int]] = set()
        for count, point in enumerate(points):
            if count and len(metrics) + len(point.metrics) > BATCH_METRICS:
                return points[:count], metrics
            new = {gate for gate in self._new(point, self._there) if (gate, point.step) not in taken}
            for name, value in point.metrics.items():
                if (STEP_KEY if point.is_step else name) in new:
                    metrics.append(Metric(name, value, point.time_ms + self._shift_ms, point.step))
            taken |= {(gate, point.step) for gate in new}
        return points, metrics

    def _new(self, point: _Point, there: dict[str, set[int]]) -> set[str]:
        """Return the metrics whose history lacks the point; STEP_KEY represents all metrics of a step."""
        gates = [STEP_KEY] if point.is_step else list(point.metrics)
        for gate in gates:
            if gate not in there:
                client, run_id = self._connected()
                history = client.get_metric_history(run_id, gate) if self._resumed else []
                there[gate] = {int(metric.step) for metric in history}
        return {gate for gate in gates if point.step not in there[gate]}

    def _finish(self) -> None:
        """End the run. A retry keeps the timestamp, and MLflow keeps equal points once."""
        from mlflow.entities import Metric

        client, run_id = self._connected()
        step, ended_ms = int(self._summary.get("steps") or 0), self._ended_ms + self._shift_ms
        metrics = [
            Metric(name, value, ended_ms, step) for name, value in final_metrics(self._summary).items()
        ]
        for start in range(0, len(metrics), BATCH_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])
        for name, value in final_tags(self._summary).items():
            client.set_tag(run_id, name, value)
        if self._given_up:
            return
        client.set_terminated(run_id, STATUS.get(str(self._summary.get("status")), "FAILED"), ended_ms)
        self._ended = True
        self._register(client, run_id)
        # Files come last, one attempt each: they often go to other storage, which may always refuse them.
        for path in list(self._artifacts):
            if self._given_up:
                return
            try:
                self._artifact(storage.at(path))
                self._artifacts.remove(path)
            except Exception as error:
                self._error = type(error).__name__
        if self.finished:
            self._identity.note_sent()

    def _register(self, client: MlflowClient, run_id: str) -> None:
        """Register the export of a run that is done, if the config asks for it. One attempt: a registry may refuse it."""
        name = self._spec.register
        if name is None or self._summary.get("status") != "done":
            return
        try:
            register(client, name, run_id, str(self._folder / "export"))
        except Exception as error:
            self._message(
                f"MLflow did not register the export as {name} ({type(error).__name__}). A server accepts an export only "
                "where it can read it: use a run.storage in a bucket, or register it by hand."
            )

    def _artifact(self, path: StoragePath) -> None:
        """Send a file. Without `show_text`, only files that are known to hold no text of records are sent."""
        client, run_id = self._connected()
        if path.name not in WITHOUT_TEXT and not self._spec.show_text:
            why = "it may contain text of records; set tracking.show_text: true to send it"
            self._message(f"{path.name} was not sent to MLflow: {why}.")
        elif not path.is_file():
            self._message(f"{path.name} was not sent to MLflow: the file does not exist in the run folder.")
        else:
            client.log_artifact(run_id, str(storage.local(path)))


def _step_point(record: dict[str, Any], time_ms: int) -> _Point:
    return _Point(int(record["step"]), step_metrics(record), time_ms, True)


def _evaluation_point(record: dict[str, Any], time_ms: int) -> _Point:
    metrics = {metric_name(f"eval/{name}"): value for name, value in numbers(record["metrics"]).items()}
    return _Point(int(record["step"]), metrics, time_ms, False)
