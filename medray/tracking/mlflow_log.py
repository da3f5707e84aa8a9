"""MLflow, off the step path: a queue, and one thread that sends it in batches.

`MlflowLog` accepts points without waiting. Its thread imports mlflow, makes or resumes the run and sends what is queued
every two seconds. When the server is down or slow, points wait in the queue and the thread tries again after a growing
pause; when it is still down at the end, it gives up with one message. Nothing here raises into training.

The run id is kept in `<run folder>/mlflow_run.json`. A restarted run goes on under the same id and sends only steps above
the highest that MLflow has (a metric's history is append-only there, so a repeated step would be a second point). A point
keeps the time stamp of its first try, so that a batch that arrived although its answer was lost is not doubled either.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.tracking.mlflow_names import final_metrics, metric_name, numbers, step_metrics, without_userinfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RUN_FILE = "mlflow_run.json"
STEP_KEY = "train/loss"  # its history tells how far MLflow is
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
WITHOUT_TEXT = frozenset({"config.yaml", "summary.json", "steps.jsonl", "evals.jsonl", "report.html"})

FLUSH_SECONDS = 2.0
BACKOFF_SECONDS = (0.5, 30.0)  # first and longest pause after a failure
CLOSE_SECONDS = 18.0  # an answering server; `Ledger.close` promises 20
LAST_TRIES_DOWN = 3  # while closing, of a server that has never answered
QUEUE_POINTS = 50_000
BATCH_METRICS = 900  # MLflow takes 1,000 metrics, 100 params, 100 tags a batch
BATCH_PARAMS = 100
_PERMANENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


@dataclass(frozen=True)
class TrackingSpec:
    """Where numbers go besides the run folder, fully resolved.

    uri: `sqlite:////absolute/mlflow.db`, or a server. params: of the config, flat, without secrets.
    show_text: files that hold text of records may become artifacts.
    """

    enabled: bool
    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str]
    params: dict[str, str]
    show_text: bool


@dataclass(frozen=True)
class _Point:
    step: int
    metrics: dict[str, float]
    time_ms: int
    is_step: bool


def open_client(uri: str) -> MlflowClient:
    """A client that sends no telemetry, keeps its log to itself and gives up on a dead server after seconds."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    for key, value in {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "0", "TIMEOUT": "10"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{key}", value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3", "git"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if database := _database(uri):
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _database(uri: str) -> Path | None:
    """The file of a SQLite URI."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


class MlflowLog:
    """One MLflow run, fed by a thread of its own.

    message: called with one sentence when points or files could not be sent, from `close` or from the thread.
    """

    def __init__(self, run_folder: Path, spec: TrackingSpec, message: Callable[[str], None]) -> None:
        self.run_id: str | None = None
        self._file, self._spec, self._message = run_folder / RUN_FILE, spec, message
        self._place = (without_userinfo(spec.uri), spec.experiment)
        self._queue: deque[_Point] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._final: tuple[dict[str, Any], list[str], int] = ({}, [], 0)
        self._client: MlflowClient | None = None
        self._resumed = False
        self._highest: dict[str, int] = {}  # by metric name; -1: MLflow has none
        self._overflow = self._refused = 0
        self._error = ""  # the newest failure's type: its text could hold a password
        self._finished = self._given_up = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def step(self, record: dict[str, Any]) -> None:
        """Queue a step record."""
        self._put(_Point(int(record["step"]), step_metrics(record), _now_ms(), True))

    def evaluation(self, record: dict[str, Any]) -> None:
        """Queue `{"step", "metrics"}` as eval/<name>."""
        metrics = {metric_name(f"eval/{name}"): value for name, value in numbers(record["metrics"]).items()}
        self._put(_Point(int(record["step"]), metrics, _now_ms(), False))

    def close(self, summary: dict[str, Any], artifacts: list[str]) -> None:
        """Send what is queued, the final metrics and the files, and end the run; at most CLOSE_SECONDS seconds."""
        self._final = (summary, artifacts, _now_ms())
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._given_up = True
        if not self._finished or self._overflow or self._refused:
            with self._lock:
                unsent = len(self._queue) + self._overflow + self._refused
            ended = "" if self._finished else ", and its run was not ended"
            why = f" ({self._error})" if self._error else ""
            self._message(
                f"MLflow at {self._place[0]} did not take {unsent} records{why}{ended}. "
                "steps.jsonl and evals.jsonl have them."
            )

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def _put(self, point: _Point) -> None:
        with self._lock:
            # Once a point is left out, later ones are too: a gap below MLflow's highest step would never be filled.
            if self._overflow or len(self._queue) >= QUEUE_POINTS:
                self._overflow += 1
            else:
                self._queue.append(point)

    # The thread.

    def _work(self) -> None:
        pause, first = BACKOFF_SECONDS[0], BACKOFF_SECONDS[0]
        last_tries = 0
        while not self._given_up:
            # Read before draining, so that whatever was queued before `close` is sent before the run is ended.
            closing = self._closing.is_set()
            try:
                self._connect()
                self._drain()
                if closing:
                    self._finish()
                    return
                pause = first
                self._closing.wait(FLUSH_SECONDS)
            except Exception as error:  # whatever it is, training goes on; close() says how much was lost
                self._error = type(error).__name__
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
        client = open_client(self._spec.uri)
        run_id = self._known_run(client)
        self._resumed = run_id is not None
        if run_id is None:
            run = client.create_run(
                self._experiment(client), tags=self._spec.tags, run_name=self._spec.run_name
            )
            run_id = str(run.info.run_id)
            self._remember(run_id)
        else:
            client.update_run(run_id, status="RUNNING", name=self._spec.run_name)
        self._log_params(client, run_id)
        self.run_id, self._client = run_id, client

    def _connected(self) -> tuple[MlflowClient, str]:
        assert self._client is not None
        assert self.run_id is not None
        return self._client, self.run_id

    def _known_run(self, client: MlflowClient) -> str | None:
        """The id that an earlier start left, when it still stands in this store and experiment."""
        from mlflow.exceptions import MlflowException

        try:
            known = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if (known.get("uri"), known.get("experiment")) != self._place:
            return None
        try:
            run = client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None

    def _remember(self, run_id: str) -> None:
        uri, experiment = self._place
        known = {"run_id": run_id, "uri": uri, "experiment": experiment}
        beside = self._file.with_name(self._file.name + ".tmp")
        beside.write_text(json.dumps(known) + "\n", "utf-8")
        beside.replace(self._file)

    def _experiment(self, client: MlflowClient) -> str:
        experiment = client.get_experiment_by_name(self._spec.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        database = _database(self._spec.uri)
        location = (database.parent / "mlartifacts").as_uri() if database else None
        return str(client.create_experiment(self._spec.experiment, artifact_location=location))

    def _log_params(self, client: MlflowClient, run_id: str) -> None:
        """Once: MLflow refuses a param that changes, and a resumed run may have changed some."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        there = client.get_run(run_id).data.params if self._resumed else {}
        wanted = {metric_name(key): value for key, value in self._spec.params.items()}
        params = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(params), BATCH_PARAMS):
            try:
                client.log_batch(run_id, params=params[start : start + BATCH_PARAMS])
            except MlflowException as error:
                if error.error_code not in _PERMANENT:
                    raise
                self._message("MLflow did not take the run's params; its metrics are sent all the same.")

    def _drain(self) -> None:
        """Send the queue, batch by batch; a batch that MLflow calls malformed is left out and counted."""
        from mlflow.exceptions import MlflowException

        client, run_id = self._connected()
        while not self._given_up:
            count, metrics, highest = self._batch()
            if not count:
                return
            try:
                if metrics:
                    client.log_batch(run_id, metrics=metrics)
            except MlflowException as error:
                if error.error_code not in _PERMANENT:
                    raise
                self._refused += count
            self._highest = highest
            with self._lock:
                for _ in range(count):
                    self._queue.popleft()

    def _batch(self) -> tuple[int, list[Metric], dict[str, int]]:
        """How many points of the queue to take, their metrics that MLflow lacks, and its highest steps afterwards."""
        from mlflow.entities import Metric

        with self._lock:
            points = list(islice(self._queue, BATCH_METRICS))
        metrics: list[Metric] = []
        highest = dict(self._highest)
        for count, point in enumerate(points):
            if count and len(metrics) + len(point.metrics) > BATCH_METRICS:
                return count, metrics, highest
            gates = [STEP_KEY] if point.is_step else list(point.metrics)
            new = {gate for gate in gates if point.step > self._highest_of(gate, highest)}
            for name, value in point.metrics.items():
                if (STEP_KEY if point.is_step else name) in new:
                    metrics.append(Metric(name, value, point.time_ms, point.step))
            highest.update(dict.fromkeys(new, point.step))
        return len(points), metrics, highest

    def _highest_of(self, name: str, highest: dict[str, int]) -> int:
        if name not in highest:
            client, run_id = self._connected()
            history = client.get_metric_history(run_id, name) if self._resumed else []
            highest[name] = self._highest[name] = max((metric.step for metric in history), default=-1)
        return highest[name]

    def _finish(self) -> None:
        from mlflow.entities import Metric

        client, run_id = self._connected()
        summary, artifacts, now = self._final
        step = int(summary.get("steps") or 0)
        metrics = [Metric(name, value, now, step) for name, value in final_metrics(summary).items()]
        for start in range(0, len(metrics), BATCH_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])
        for path in artifacts:
            self._artifact(Path(path))
        if not self._given_up:
            client.set_terminated(run_id, STATUS.get(str(summary.get("status")), "FAILED"))
            self._finished = True

    def _artifact(self, path: Path) -> None:
        """Only files that are known to hold no text of records leave the run folder, unless the user shows text."""
        client, run_id = self._connected()
        if path.name not in WITHOUT_TEXT and not self._spec.show_text:
            why = "it may hold text of records, and tracking.show_text is false"
            self._message(f"{path.name} was not sent to MLflow: {why}.")
        elif not path.is_file():
            self._message(f"{path.name} was not sent to MLflow: there is no such file.")
        else:
            client.log_artifact(run_id, str(path))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
