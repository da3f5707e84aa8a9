"""The MLflow run that belongs to a run folder: created by the first start, and resumed by later starts.

Its id is kept in `<run folder>/mlflow_run.json`, so all starts of a run write to the same MLflow run. The file `<run
folder>/mlflow_unsent` is created before the first attempt to send and removed when MLflow has everything. It therefore
survives a killed process and shows that something is missing.

A run may be a part of another one, as a stage is of the whole. The parent has a run folder and an id of its own, and is
created by whichever part reaches MLflow first.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tracking.mlflow_names import metric_name, without_userinfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE, UNSENT_FILE = "mlflow_run.json", "mlflow_unsent"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's page shows the run below its parent
BATCH_PARAMS = 100  # MLflow's limit per batch
PERMANENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


@dataclass(frozen=True)
class TrackingSpec:
    """The tracking settings of a run: the MLflow server or database that receives its numbers.

    uri: `sqlite:////absolute/mlflow.db`, or the URL of a server. params: the config as flat keys, without secrets.
    show_text: whether files with text of records may be sent. datasets: the token shards of each
    split, never a row.
    parent: the run that this one is a part of; None if it is not a part. register: model of which the export becomes a
    version.
    """

    enabled: bool
    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str]
    params: dict[str, str]
    show_text: bool
    datasets: tuple[DatasetOfSplit, ...] = ()
    parent: ParentRun | None = None
    register: str | None = None


@dataclass(frozen=True)
class DatasetOfSplit:
    """The token shards of a split as MLflow shows them.

    digest: fingerprint of everything that decides the tokens of both splits. context: `training` or `validation`.
    """

    name: str
    digest: str
    context: str


@dataclass(frozen=True)
class ParentRun:
    """A run with parts that are MLflow runs of their own. folder: its run folder, which keeps the id of its MLflow run."""

    folder: str
    spec: TrackingSpec


def leave_run(run_folder: StoragePath) -> None:
    """Forget the folder's MLflow run: the next `RunIdentity` ends it and creates a new one."""
    file = run_folder / RUN_FILE
    with suppress(FileNotFoundError, InputError):
        storage.write(file, json.dumps({**storage.read_json(file), "left": True}) + "\n")


def open_client(uri: str) -> MlflowClient:
    """Return an MLflow client that sends no telemetry, prints no log lines, and gives up on a dead server after
    seconds.
    """
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
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
    """Return the file of a SQLite URI, or None for another URI."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


class RunIdentity:
    """Creates or finds the MLflow run that belongs to a run folder.

    message: called with one sentence if MLflow refuses the run's parameters.
    """

    def __init__(self, run_folder: StoragePath, spec: TrackingSpec, message: Callable[[str], None]) -> None:
        self._file, self._spec, self._message = run_folder / RUN_FILE, spec, message
        self._unsent = run_folder / UNSENT_FILE
        self._place = (without_userinfo(spec.uri), spec.experiment)
        self._made: str | None = None
        self._parent: RunIdentity | None = None
        if spec.parent is not None and spec.parent.spec.uri == spec.uri:
            self._parent = RunIdentity(storage.at(spec.parent.folder), spec.parent.spec, message)

    def note_unsent(self) -> None:
        with suppress(OSError):  # sending is attempted in any case
            storage.write(
                self._unsent, "MLflow lacks a part of this run. The next start of the run sends it.\n"
            )

    def note_sent(self) -> None:
        with suppress(OSError):
            self._unsent.unlink(missing_ok=True)

    def open(self, client: MlflowClient, start_ms: int, given_up: Callable[[], bool]) -> tuple[str, bool]:
        """Return the run's id, and whether the run existed before. May raise any error of MLflow.

        start_ms: start time of a new run, in milliseconds since the epoch. given_up: asked before a run is created,
        because the answers before that may have come very late.
        """
        from mlflow.entities import RunTag

        tags = dict(self._spec.tags)
        if self._parent is not None:
            self._parent.note_unsent()  # its end is missing, until the whole has ended
            tags[PARENT_TAG], _ = self._parent.open(client, start_ms, given_up)
        known = self._known_run(client)
        if known is None:
            # An id that could not be written (full disk) is kept in memory, else each attempt would create another run.
            experiment = self._experiment(client)
            if given_up():
                raise TimeoutError
            run_id = self._made or str(
                client.create_run(experiment, start_ms, tags=tags, run_name=self._spec.run_name).info.run_id
            )
            self._made = run_id
            self._remember(run_id, experiment)
            self._made = None
        else:
            run_id = known
            client.update_run(run_id, status="RUNNING", name=self._spec.run_name)
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._log_params(client, run_id)
        self._log_dataset(client, run_id)
        return run_id, known is not None

    def _known_run(self, client: MlflowClient) -> str | None:
        """Return the id in the run folder, if it is in this store and experiment and `leave_run` has not marked it."""
        from mlflow.exceptions import MlflowException

        try:
            known = storage.read_json(self._file)
        except (FileNotFoundError, InputError):
            return None  # other errors of storage are raised: returning None would create another run
        if (known.get("uri"), known.get("experiment")) != self._place or not isinstance(
            known.get("run_id"), str
        ):
            return None
        try:
            run = client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        if known.get("left"):
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
            return None
        return str(run.info.run_id)

    def _remember(self, run_id: str, experiment_id: str) -> None:
        uri, experiment = self._place
        known = {"run_id": run_id, "uri": uri, "experiment": experiment, "experiment_id": experiment_id}
        storage.write(self._file, json.dumps(known) + "\n")

    def _experiment(self, client: MlflowClient) -> str:
        experiment = client.get_experiment_by_name(self._spec.experiment)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        database = _database(self._spec.uri)
        location = (database.parent / "mlartifacts").as_uri() if database else None
        made = str(client.create_experiment(self._spec.experiment, artifact_location=location))
        if database:
            _delete_empty_default(client, made)
        return made

    def _log_dataset(self, client: MlflowClient, run_id: str) -> None:
        """Log the name of each split's data and the fingerprint of its tokens, which MLflow shows in the Dataset column."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for each in self._spec.datasets:
            source = json.dumps({"tokens": each.digest, "split": each.context})
            dataset = Dataset(each.name[:500], each.digest[:36], "medray", source)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", each.context)]))
        if inputs:
            client.log_inputs(run_id, datasets=inputs)

    def _log_params(self, client: MlflowClient, run_id: str) -> None:
        """Log the params once: MLflow refuses a param that changes, and a resumed run may have changed some."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        there = client.get_run(run_id).data.params
        wanted = {metric_name(key): value for key, value in self._spec.params.items()}
        params = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(params), BATCH_PARAMS):
            try:
                client.log_batch(run_id, params=params[start : start + BATCH_PARAMS])
            except MlflowException as error:
                if error.error_code not in PERMANENT:
                    raise
                self._message(
                    "MLflow refused the parameters of this run (its config); the metrics are sent nevertheless."
                )


def _delete_empty_default(client: MlflowClient, ours: str) -> None:
    """Delete the experiment that MLflow puts into a new database, unless something uses it."""
    there = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    if there.pop("0", None) == "Default" and set(there) == {ours} and not client.search_runs(["0"]):
        client.delete_experiment("0")
