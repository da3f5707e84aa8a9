"""The feed to MLflow, with a real store and without one."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from medray import storage
from medray.tracking import Ledger, ParentRun, TrackingSpec, mlflow_log
from medray.tracking.mlflow_names import final_metrics, metric_name, step_metrics, without_userinfo
from medray.tracking.mlflow_run import UNSENT_FILE, DatasetOfSplit, RunIdentity, open_client
from medray.tracking.step_file import read_records

SPLITS = (
    DatasetOfSplit("notes.csv", "0a1b", "training"),
    DatasetOfSplit("valid.csv", "0a1b", "validation"),
)


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "loss/label": 2.0 / step, "lr": 1e-4, "grad_norm": 1.0, "tokens": 100,
            "loss_tokens": 50, "samples": step * 4, "epoch": step / 10, "seconds": 0.5}  # fmt: skip


def spec(uri: str, **changes: Any) -> TrackingSpec:
    values: dict[str, Any] = {"uri": uri, "experiment": "tests", "run_name": "r", "tags": {"site": "a"}}
    values |= {"enabled": True, "params": {"train/lr": "0.1"}, "show_text": False}
    return TrackingSpec(**(values | changes))


def messages(ledger: Ledger) -> list[str]:
    return [r["text"] for r in ledger.poll(0) if r["kind"] == "message"]


def wait_for_run(ledger: Ledger) -> str:
    end = time.monotonic() + 60
    while (run_id := ledger.mlflow_run_id()) is None:
        assert time.monotonic() < end, "MLflow's store did not open"
        time.sleep(0.05)
    return run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the module: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'sub' / 'mlflow.db'}"


def test_a_resumed_run_keeps_its_mlflow_id_and_has_no_doubled_points(tmp_path: Path, store: str) -> None:
    first = Ledger(str(tmp_path), spec(store))
    first.open(resumed_step=0)
    first.evaluation({"step": 0, "metrics": {"rougeL": 0.1}})
    for step in range(1, 7):
        first.step(record(step))
    first.evaluation({"step": 5, "metrics": {"rougeL": 0.2}})
    run_id = wait_for_run(first)
    first.close({"status": "stopped", "steps": 6}, [])
    client = open_client(store)
    assert client.get_run(run_id).info.status == "KILLED"

    # A new driver resumes at step 4, replays steps 5 and 6 and changes a parameter, which MLflow would refuse.
    changed = {"train/lr": "0.2", "train/new": "1"}
    changes: dict[str, Any] = {"params": changed, "tags": {"site": "b"}, "datasets": SPLITS}
    second = Ledger(str(tmp_path), spec(store, **changes))
    second.open(resumed_step=4)
    for step in range(5, 10):
        second.step(record(step))
    second.evaluation({"step": 5, "metrics": {"rougeL": 0.2, "f1": 0.5}})
    # The loop evaluates the losses after the last step; the export's text metrics come later, with the same losses.
    second.evaluation({"step": 9, "metrics": {"loss": 0.4, "loss_label": 0.3}})
    second.evaluation({"step": 9, "metrics": {"loss": 0.4, "loss_label": 0.3, "rougeL": 0.6}})
    report = tmp_path / "report.html"
    report.write_text("<p>", "utf-8")
    private = tmp_path / "predictions.jsonl"
    private.write_text("text of a record", "utf-8")
    summary: dict[str, Any] = {
        "status": "done",
        "steps": 9,
        "train_loss_last": 0.5,
        "exported_step": 9,
        "eval": {"after": {"loss": 0.4, "loss_label": 0.3, "rougeL": 0.6}},
        "versions": {"x": "1"},
        "warnings": [{"name": "empty_predictions", "text": "…"}, {"name": "zero_gradients", "text": "…"}],
    }
    second.close(summary, [str(report), str(private)])

    assert second.mlflow_run_id() == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train/lr": "0.1", "train/new": "1"}
    shown = ("site", "medray.exported_step", "medray.warnings")
    assert [run.data.tags[name] for name in shown] == ["b", "9", "empty_predictions, zero_gradients"]
    assert run.inputs is not None
    inputs = sorted(run.inputs.dataset_inputs, key=lambda each: str(each.dataset.name))
    assert [(used.dataset.name, used.dataset.digest, json.loads(used.dataset.source)) for used in inputs] == [
        ("notes.csv", "0a1b", {"tokens": "0a1b", "split": "training"}),
        ("valid.csv", "0a1b", {"tokens": "0a1b", "split": "validation"}),
    ]
    tags = [[(tag.key, tag.value) for tag in used.tags] for used in inputs]
    assert tags == [[("mlflow.data.context", "training")], [("mlflow.data.context", "validation")]]
    assert [each.name for each in client.search_experiments()] == ["tests"]  # no empty "Default" experiment
    known = json.loads((tmp_path / "mlflow_run.json").read_text())
    assert known["experiment_id"] == run.info.experiment_id
    for name in ("train/loss", "train/loss_label", "train/lr", "train/grad_norm", "train/epoch"):
        history = sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
        assert [step for step, _ in history] == list(range(1, 10)), name
    assert [m.value for m in client.get_metric_history(run_id, "perf/tokens_per_second")] == [200.0] * 9
    rouge = sorted((m.step, m.value) for m in client.get_metric_history(run_id, "eval/rougeL"))
    assert rouge == [(0, 0.1), (5, 0.2), (9, 0.6)]
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "eval/loss")] == [(9, 0.4)]
    # Whoever sorts runs by a metric compares trained models, and the summary's numbers say the same.
    for name, value in summary["eval"]["after"].items():
        assert run.data.metrics[f"eval/{name}"] == run.data.metrics[f"final/eval/after/{name}"] == value
    evaluated = [json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines()]
    assert evaluated[-1] == {"step": 9, "metrics": summary["eval"]["after"]}
    assert [m.step for m in client.get_metric_history(run_id, "eval/f1")] == [5]
    assert run.data.metrics["final/train_loss_last"] == 0.5
    assert [a.path for a in client.list_artifacts(run_id)] == ["report.html"]
    assert any("predictions.jsonl was not sent" in text for text in messages(second))
    assert "mlartifacts" in run.info.artifact_uri


def test_runs_of_stages_are_children_of_one_run_that_survives_restarts(tmp_path: Path, store: str) -> None:
    (tmp_path / "three").mkdir()
    parent = ParentRun(str(tmp_path / "three"), spec(store, run_name="three"))
    client = open_client(store)

    def stage(name: str) -> tuple[str, str]:
        """Train one more step of a stage. Returns its run's id and that of its parent."""
        ledger = Ledger(str(tmp_path / name), spec(store, run_name=name, parent=parent))
        ledger.step(record(len(read_records(tmp_path / name / "steps.jsonl")) + 1))
        run_id = wait_for_run(ledger)
        ledger.close({"status": "done", "steps": 1}, [])
        return run_id, client.get_run(run_id).data.tags["mlflow.parentRunId"]

    def end(status: str) -> str:
        Ledger(parent.folder, parent.spec).send_unsent({"status": status, "steps": 1}, [])
        return str(client.get_run(whole).info.status)

    first, whole = stage("three.1-pre")
    assert client.get_run(whole).info.run_name == "three"
    assert client.get_run(whole).info.status == "RUNNING"
    assert end("stopped") == "KILLED"
    assert stage("three.1-pre") == (first, whole)
    assert client.get_run(whole).info.status == "RUNNING"
    second, same = stage("three.2-post")
    assert second != first
    assert same == whole
    # Only the start of a stage opens the run of the whole, so what the whole lacks is its end.
    assert (tmp_path / "three" / UNSENT_FILE).exists()
    assert end("done") == "FINISHED"
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == ["mlflow_run.json"]
    client.delete_run(whole)
    assert stage("three.2-post")[1] not in (whole, first, second)


def test_a_restart_of_the_loop_in_one_ledger_does_not_double(tmp_path: Path, store: str) -> None:
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    for step in range(1, 6):
        ledger.step(record(step))
    wait_for_run(ledger)
    ledger.open(resumed_step=2)
    for step in range(3, 8):
        ledger.step(record(step))
    ledger.close({"status": "failed", "steps": 7}, [])
    client, run_id = open_client(store), wait_for_run(ledger)
    assert sorted(m.step for m in client.get_metric_history(run_id, "train/loss")) == list(range(1, 8))
    assert client.get_run(run_id).info.status == "FAILED"


def test_what_mlflow_missed_is_sent_from_the_file(tmp_path: Path, store: str) -> None:
    offline = Ledger(str(tmp_path), spec(store, enabled=False))
    offline.open(resumed_step=0)
    for step in (1, 2, 3):
        offline.step(record(step))
    offline.close({"status": "stopped"}, [])
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=2)
    ledger.step(record(3))
    ledger.close({"status": "done", "steps": 3}, [])
    history = open_client(store).get_metric_history(wait_for_run(ledger), "train/loss")
    assert sorted(m.step for m in history) == [1, 2, 3]


def test_mlflow_waits_for_the_first_step(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing MLflow costs CPU seconds that the workers need until they train, also during a first evaluation."""
    happened, asked = [], threading.Event()

    def opened(uri: str) -> Any:
        happened.append("client")
        asked.set()
        return open_client(uri)

    monkeypatch.setattr(mlflow_log, "open_client", opened)
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    ledger.evaluation({"step": 0, "metrics": {"rougeL": 0.1}})
    asked.wait(0.2)
    happened.append("step")
    ledger.step(record(1))
    run_id = wait_for_run(ledger)
    ledger.close({"status": "done", "steps": 1}, [])
    assert happened == ["step", "client"]
    assert open_client(store).get_run(run_id).data.metrics["eval/rougeL"] == 0.1


def test_a_run_that_ends_before_its_first_step_loses_nothing(tmp_path: Path, store: str) -> None:
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    ledger.evaluation({"step": 0, "metrics": {"rougeL": 0.1}})
    ledger.close({"status": "failed"}, [])
    run = open_client(store).get_run(wait_for_run(ledger))
    assert run.info.status == "FAILED"
    assert run.data.metrics["eval/rougeL"] == 0.1


def test_another_experiment_is_another_run(tmp_path: Path, store: str) -> None:
    ids = set()
    for experiment in ("one", "two"):
        ledger = Ledger(str(tmp_path), spec(store, experiment=experiment))
        ledger.open(resumed_step=0)
        ledger.step(record(1))
        ids.add(wait_for_run(ledger))
        ledger.close({"status": "done"}, [])
    assert len(ids) == 2
    assert json.loads((tmp_path / "mlflow_run.json").read_text())["experiment"] == "two"


def test_more_points_than_a_batch_all_arrive(tmp_path: Path, store: str) -> None:
    ledger = Ledger(str(tmp_path), spec(store, params={f"p{i}": str(i) for i in range(230)}))
    ledger.open(resumed_step=0)
    for step in range(1, 501):
        ledger.step(record(step))
    ledger.close({"status": "done", "steps": 500}, [])
    client, run_id = open_client(store), wait_for_run(ledger)
    assert len(client.get_metric_history(run_id, "train/lr")) == 500
    assert len(client.get_run(run_id).data.params) == 230


def test_messages_while_mlflow_is_down_show_no_password(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), spec("http://user:hunter2@127.0.0.1:9/x"))
    ledger.open(resumed_step=0)
    ledger.step(record(1))  # MLflow is not asked before
    end = time.monotonic() + 100
    while not messages(ledger):
        assert time.monotonic() < end, "nothing was said"
        time.sleep(0.02)
    (said,) = messages(ledger)
    assert said.startswith("MLflow at http://127.0.0.1:9/x does not answer")
    ledger.close({"status": "failed"}, [])
    assert "hunter2" not in str(messages(ledger))


def test_the_run_file_contains_no_password(tmp_path: Path, store: str) -> None:
    identity = RunIdentity(tmp_path, spec("http://user:hunter2@host:5000"), lambda text: None)
    run_id, there = identity.open(open_client(store), 0, lambda: False)
    assert not there
    known = json.loads((tmp_path / "mlflow_run.json").read_text())
    assert (known["run_id"], known["uri"]) == (run_id, "http://host:5000")
    again = RunIdentity(tmp_path, spec("http://user:another@host:5000"), lambda text: None)
    assert again.open(open_client(store), 0, lambda: False) == (run_id, True), (
        "a new password is not a new store"
    )


@pytest.mark.parametrize("call", ["open", "log_batch"])
def test_a_call_that_does_not_return_blocks_nothing(
    call: str, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps, evaluations and the end return while MLflow's thread is held in the call, whatever the clock says."""
    held, go = threading.Event(), threading.Event()

    def holds() -> None:
        held.set()
        assert go.wait(100)

    def opens(uri: str) -> Any:
        if call == "open":
            holds()
        client = open_client(uri)
        send = client.log_batch

        def sends(*args: Any, **options: Any) -> Any:
            if call == "log_batch" and options.get("metrics"):
                holds()
            return send(*args, **options)

        client.log_batch = sends  # type: ignore[method-assign]
        return client

    monkeypatch.setattr(mlflow_log, "open_client", opens)
    monkeypatch.setattr(mlflow_log, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(mlflow_log, "LOCAL_CLOSE_SECONDS", 0.2)
    others = set(threading.enumerate())  # of ledgers that their tests have left open
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    assert held.wait(100)
    for step in range(2, 201):
        ledger.step(record(step))
        ledger.evaluation({"step": step, "metrics": {"rougeL": 0.1}})
    assert ledger.flush() is None
    ledger.close({"status": "done", "steps": 200}, [])
    (told,) = messages(ledger)
    assert "did not receive 399 records" in told
    assert not go.is_set()
    go.set()
    for thread in set(threading.enumerate()) - others:
        if thread.name == "mlflow":
            thread.join(100)


def test_the_end_of_a_run_waits_no_longer_than_its_ledger_promises() -> None:
    assert 0 < mlflow_log.CLOSE_SECONDS < mlflow_log.LOCAL_CLOSE_SECONDS < 80, "the driver waits 90"
    assert mlflow_log.CLOSE_SECONDS < 20
    first, longest = mlflow_log.BACKOFF_SECONDS
    assert 0 < first < longest < 60
    assert mlflow_log.BATCH_METRICS < 1000, "MLflow takes no more in one batch"
    assert mlflow_log.LAST_TRIES_DOWN * first < mlflow_log.CLOSE_SECONDS
    assert 0 < mlflow_log.FLUSH_SECONDS < 10


def test_mlflow_unreachable_neither_blocks_nor_raises(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), spec("http://user:hunter2@127.0.0.1:9"))
    ledger.open(resumed_step=0)
    for step in range(1, 201):
        ledger.step(record(step))
    ledger.close({"status": "done", "steps": 200}, [])
    assert ledger.mlflow_run_id() is None
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 200
    *before, last = messages(ledger)
    assert "did not receive 200 records" in last
    # On a busy machine the end comes only after the first try has failed, which is said too.
    assert all("does not answer" in text for text in before)
    assert len(before) <= 1
    assert not any("hunter2" in text for text in (*before, last))


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), spec(f"sqlite:///{tmp_path}/mlflow.db", enabled=False))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    ledger.close({"status": "done"}, [])
    assert ledger.mlflow_run_id() is None
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]


def test_mlflow_is_quiet(tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(str(tmp_path), spec(f"sqlite:///{tmp_path}/own.db"))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    wait_for_run(ledger)
    ledger.close({"status": "done"}, [])
    out, err = capfd.readouterr()
    assert out + err == ""
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"


def test_names() -> None:
    assert step_metrics(record(2)) == {
        "train/loss": 1.5, "train/loss_label": 1.0, "train/lr": 1e-4, "train/grad_norm": 1.0, "train/epoch": 0.2,
        "perf/tokens_per_second": 200.0,
    }  # fmt: skip
    assert step_metrics(
        {"step": 1, "loss/rationale/key one": 1, "mfu": 0.5, "note": "text", "tokens": 5, "seconds": 0}
    ) == {
        "train/loss_rationale_key one": 1.0,
        "perf/mfu": 0.5,
    }
    assert metric_name("eval//f1@5/../x") == "eval/f1_5/x"
    assert final_metrics({"a": 1, "ok": True, "b": {"c": 2.0, "d": "text"}}) == {
        "final/a": 1.0,
        "final/b/c": 2.0,
    }
    assert without_userinfo("postgresql://u:p@h:5432/d") == "postgresql://h:5432/d"
    assert without_userinfo("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"


class _Picky:
    """A client of a server that refuses one step."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        if any(metric.step == 37 for metric in metrics):
            raise MlflowException("refused", INVALID_PARAMETER_VALUE)
        self._client.log_batch(run_id, metrics=metrics, params=params)


def test_only_the_refused_step_of_a_refused_batch_is_dropped(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "open_client", lambda uri: _Picky(open_client(uri)))
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    for step in range(1, 101):
        ledger.step(record(step))
    ledger.close({"status": "done", "steps": 100}, [])
    history = open_client(store).get_metric_history(wait_for_run(ledger), "train/loss")
    assert sorted(metric.step for metric in history) == [*range(1, 37), *range(38, 101)]
    assert "did not receive 1 records" in messages(ledger)[0]


class _Unending(_Picky):
    """A client of a server that fails when a run is ended, twice."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._failures = 2

    def set_terminated(self, *arguments: Any) -> None:
        if self._failures:
            self._failures -= 1
            raise ConnectionError
        self._client.set_terminated(*arguments)


def test_a_retried_end_adds_one_point_per_final_metric(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "BACKOFF_SECONDS", (0.05, 0.05))
    monkeypatch.setattr(mlflow_log, "open_client", lambda uri: _Unending(open_client(uri)))
    ledger = Ledger(str(tmp_path), spec(store))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    ledger.close({"status": "done", "steps": 1, "samples": 4}, [])
    client, run_id = open_client(store), wait_for_run(ledger)
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "final/samples")] == [(1, 4.0)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert messages(ledger) == []


def test_a_run_whose_files_cannot_be_sent_is_ended_and_the_next_start_sends_them(
    tmp_path: Path, store: str
) -> None:
    in_the_way = tmp_path / "artifacts"
    in_the_way.touch()  # where MLflow would make a folder
    client = open_client(store)
    client.create_experiment(tmp_path.name, artifact_location=in_the_way.as_uri())
    folder = tmp_path / "run"
    ledger = Ledger(str(folder), spec(store, experiment=tmp_path.name))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    run_id = wait_for_run(ledger)
    end = {"status": "done", "steps": 1}
    files = [folder / "config.yaml", folder / "report.html"]
    for file in files:
        file.write_text("a", "utf-8")
    ledger.close(end, [str(file) for file in files])
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(run_id, "final/steps")) == 1
    [said] = messages(ledger)
    assert "did not receive config.yaml, report.html (" in said
    assert "not ended" not in said
    assert (folder / UNSENT_FILE).exists()

    in_the_way.unlink()
    again = Ledger(str(folder), spec(store, experiment=tmp_path.name))
    assert again.send_unsent(end, [str(file) for file in files])
    assert [one.path for one in client.list_artifacts(run_id)] == ["config.yaml", "report.html"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert messages(again) == []
    assert not (folder / UNSENT_FILE).exists()


def test_an_id_that_cannot_be_written_creates_only_one_run(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "BACKOFF_SECONDS", (0.05, 0.05))
    write, full = storage.write, [True]

    def refuse(*arguments: Any, **options: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(*arguments, **options)

    monkeypatch.setattr(storage, "write", refuse)
    ledger = Ledger(str(tmp_path), spec(store, experiment="full"))
    ledger.open(resumed_step=0)
    ledger.step(record(1))
    client = open_client(store)
    end = time.monotonic() + 60
    while not (found := client.get_experiment_by_name("full")) or not client.search_runs(
        [found.experiment_id]
    ):
        assert time.monotonic() < end, "no run was made"
        time.sleep(0.05)
    time.sleep(0.5)  # several tries
    assert ledger.mlflow_run_id() is None
    full.clear()
    run_id = wait_for_run(ledger)
    ledger.close({"status": "done", "steps": 1}, [])
    assert [run.info.run_id for run in client.search_runs([found.experiment_id])] == [run_id]


def test_the_export_of_a_run_that_is_done_is_registered_once(store: str, tmp_path: Path) -> None:
    asked = spec(store, register="notes")
    for status in ("stopped", "done"):
        ledger = Ledger(str(tmp_path), asked)
        ledger.open(resumed_step=0)
        ledger.step(record(1))
        ledger.close({"status": status, "steps": 1}, [])
    ledger = Ledger(str(tmp_path), asked)
    ledger.send_unsent({"status": "done", "steps": 1}, [])
    (version,) = open_client(store).search_model_versions("name='notes'")
    assert (version.run_id, version.source) == (ledger.mlflow_run_id(), f"file://{tmp_path}/export")
