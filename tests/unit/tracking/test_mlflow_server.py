"""A real MLflow server dies, hangs and comes back: nothing waits for it, and every point arrives exactly once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow_server import MlflowServer

from medray.tracking import Ledger, TrackingSpec, mlflow_log
from medray.tracking.mlflow_run import UNSENT_FILE, open_client


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "lr": 1e-4, "tokens": 100, "seconds": 0.5}


def spec(uri: str, experiment: str) -> TrackingSpec:
    return TrackingSpec(True, uri, experiment, "r", {}, {"train/lr": "0.1"}, False)


def steps(ledger: Ledger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        ledger.step(record(step))
        if step % 10 == 0:
            ledger.evaluation({"step": step, "metrics": {"rougeL": 0.1}})


def messages(ledger: Ledger) -> list[str]:
    return [one["text"] for one in ledger.poll(0) if one["kind"] == "message"]


def until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.05)


def history(server: MlflowServer, run_id: str | None, name: str) -> list[int]:
    assert run_id is not None
    return sorted(metric.step for metric in open_client(server.uri).get_metric_history(run_id, name))


def assert_whole(server: MlflowServer, ledger: Ledger, experiment_name: str, last: int) -> None:
    """Each step once, in all of its metrics; one run in the experiment, and it has ended."""
    run_id = ledger.mlflow_run_id()
    for name in ("train/loss", "train/lr", "perf/tokens_per_second"):
        assert history(server, run_id, name) == list(range(1, last + 1)), name
    assert history(server, run_id, "eval/rougeL") == list(range(10, last + 1, 10))
    client = open_client(server.uri)
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train/lr": "0.1"}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for all tests: a start takes ten seconds."""
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture
def server(one_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setattr(mlflow_log, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(mlflow_log, "BACKOFF_SECONDS", (0.1, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    if not one_server.alive:
        one_server.start()
    yield one_server
    one_server.go_on()


def arrived(server: MlflowServer, ledger: Ledger, step: int) -> bool:
    """Return whether the server has a step; a server that is too busy to answer in time has not said so yet."""
    try:
        return ledger.mlflow_run_id() is not None and step in history(
            server, ledger.mlflow_run_id(), "train/loss"
        )
    except MlflowException:
        return False


def test_a_server_that_dies_and_comes_back_gets_everything_once(server: MlflowServer, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    ledger.open(resumed_step=0)
    steps(ledger, 1, 30)
    until(lambda: arrived(server, ledger, 30), "step 30 in MLflow")
    server.kill()
    steps(ledger, 31, 130)
    server.start()
    until(lambda: arrived(server, ledger, 130), "step 130 in MLflow, without another step")
    steps(ledger, 131, 140)
    ledger.close({"status": "done", "steps": 140}, [])
    assert messages(ledger) == []
    assert_whole(server, ledger, tmp_path.name, 140)


@pytest.mark.long
def test_the_next_start_sends_what_a_dead_server_missed(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "CLOSE_SECONDS", 3.0)
    first = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    first.open(resumed_step=0)
    steps(first, 1, 30)
    until(lambda: arrived(server, first, 30), "step 30 in MLflow")
    server.kill()
    steps(first, 31, 45)
    first.close({"status": "stopped", "steps": 45}, [])
    [said] = messages(first)
    # 15 steps, and the evaluation of step 40
    assert "did not receive 16 records" in said
    assert "its run was not ended" in said
    assert "start the run again to send them" in said

    server.start()
    second = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    second.open(resumed_step=40)
    steps(second, 41, 50)
    second.close({"status": "done", "steps": 50}, [])
    assert messages(second) == ["resumed after step 40"]
    assert second.mlflow_run_id() == first.mlflow_run_id()
    assert_whole(server, second, tmp_path.name, 50)


LEDGER = """
import sys, time
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from medray.tracking import Ledger, mlflow_log
from test_mlflow_server import spec, steps
mlflow_log.FLUSH_SECONDS = 0.1
ledger = Ledger(sys.argv[1], spec(*sys.argv[2:4]))
ledger.open(resumed_step=0)
steps(ledger, 1, 30)
while ledger.mlflow_run_id() is None:
    time.sleep(0.05)  # to spin would keep the sending thread from the interpreter
print("made", flush=True)
sys.stdin.readline()
steps(ledger, 31, 60)
print("sent", flush=True)
sys.stdin.readline()
"""


@pytest.mark.long
def test_a_server_that_hangs_while_the_ledger_is_killed_gets_everything_once(
    server: MlflowServer, tmp_path: Path
) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
    command = [sys.executable, "-c", LEDGER, str(tmp_path / "run"), server.uri, tmp_path.name, *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        server.halt()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"
        until(lambda: server.unread() > 0, "a request that hangs")
        process.kill()
    ledger = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    steps(ledger, 61, 90)
    server.go_on()
    until(lambda: arrived(server, ledger, 90), "step 90 in MLflow")
    ledger.close({"status": "done", "steps": 90}, [])
    assert_whole(server, ledger, tmp_path.name, 90)


def test_a_hanging_server_does_not_hold_up_the_end(
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlflow_log, "CLOSE_SECONDS", 1.0)
    server.halt()
    ledger = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    ledger.open(resumed_step=0)
    steps(ledger, 1, 100)
    ledger.close({"status": "done", "steps": 100}, [])
    assert "did not receive 110 records" in messages(ledger)[0]
    assert (tmp_path / "run" / UNSENT_FILE).exists()

    server.go_on()  # the run is done, so the rest is sent only if the run is started again
    monkeypatch.setattr(mlflow_log, "CLOSE_SECONDS", 18.0)
    again = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    assert again.send_unsent({"status": "done", "steps": 100}, [])
    assert messages(again) == []
    assert capfd.readouterr().out == ""
    assert_whole(server, again, tmp_path.name, 100)
    assert not (tmp_path / "run" / UNSENT_FILE).exists()


@pytest.mark.long
def test_more_than_the_queue_holds_is_sent_from_the_files(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "QUEUE_POINTS", 20)
    ledger = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    ledger.open(resumed_step=0)
    steps(ledger, 1, 10)
    until(lambda: arrived(server, ledger, 10), "step 10 in MLflow")
    server.halt()
    steps(ledger, 11, 100)
    server.go_on()
    until(lambda: arrived(server, ledger, 100), "step 100 in MLflow")
    ledger.close({"status": "done", "steps": 100}, [])
    assert_whole(server, ledger, tmp_path.name, 100)


@pytest.mark.long
def test_a_server_that_comes_back_empty_gets_the_run_again(server: MlflowServer, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "run"), spec(server.uri, tmp_path.name))
    ledger.open(resumed_step=0)
    steps(ledger, 1, 10)
    until(lambda: arrived(server, ledger, 10), "step 10 in MLflow")
    server.kill()
    server.start("another.db")
    steps(ledger, 11, 30)
    ledger.close({"status": "done", "steps": 30}, [])
    assert_whole(server, ledger, tmp_path.name, 30)


def test_a_server_that_does_not_answer_is_named_once(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), spec("http://user:secret@127.0.0.1:9", "nobody"))
    ledger.step(record(1))
    until(lambda: messages(ledger) != [], "a word of it")
    [said] = messages(ledger)
    assert "http://127.0.0.1:9 does not answer" in said
    ledger.close({"status": "done", "steps": 1}, [])
    assert [text.partition(" ")[0] for text in messages(ledger)] == ["MLflow", "MLflow"]
    assert "start the run again to send them" in messages(ledger)[1]
    assert "secret" not in str(messages(ledger))
