"""Tests of `medray train` with a run name that was used before: restarted on request, refused while another start has it.

Of one that is done, MLflow is sent what it missed.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medray import train
from medray.cli.cluster import PRIVATE
from medray.cli.main import main
from medray.config import dump, read
from medray.tracking import Ledger
from medray.tracking.mlflow_run import UNSENT_FILE, open_client
from medray.train.driver.tracking import artifacts, tracking_spec
from medray.train.run_folder.earlier_run import finished_result

SOUND = """
run: {storage: runs, name: mine}
data: {dataset: clinic, tokenizer: train}
model: {name: null, init: random, preset: llama-tiny}
"""
SUMMARY: dict[str, Any] = {
    "status": "done",
    "steps": 3,
    "samples": 24,
    "tokens": 240,
    "tokens_per_second": 1.0,
    "eval": {},
    "seconds": {"total": 1.0},
    "parameters": {"total": 2, "trainable": 1},
}


class TrainingBeganError(Exception):
    """The next statement of `train` would start Ray."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose training ends as soon as it would join a cluster."""

    def connect(*_: object) -> None:
        raise TrainingBeganError

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Set by the command for a cluster of its own.
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_worker_niceness", *PRIVATE):
        monkeypatch.setenv(name, "")  # so that it is absent again afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr("medray.cli.cluster.connect", connect)
    (tmp_path / "run.yaml").write_text(SOUND)
    return tmp_path / "run.yaml"


@pytest.fixture
def done(file: Path) -> Path:
    """The folder of a run of this config that is done."""
    folder = file.parent / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(read(file)))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "export").mkdir()
    (folder / "export" / "config.json").touch()
    (folder / "export" / "model.safetensors").touch()
    return folder


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold the lock of the run, like another start."""
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps({"host": "gpu-7", "pid": 4711, "time": "2026-01-02 03:04:05+00:00"}))
        stream.flush()
        yield


def test_a_run_that_is_done_needs_no_lock(file: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with in_use(done):
        assert main(["train", str(file)]) == 0
    assert "mine was finished before, after 3 steps; use --overwrite to start from" in capsys.readouterr().err


def test_overwrite_moves_the_old_run_says_where_and_starts_again(
    file: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingBeganError):
        main(["train", str(file), "--overwrite"])
    aside = done.with_name("mine.old-1")
    assert f"overwrite   the old run is now {aside}" in capsys.readouterr().err
    assert json.loads((aside / "summary.json").read_text()) == SUMMARY
    assert not done.exists()
    assert main(["train", str(file), "run.name=mine.old-1"]) == 0  # it is a run as before, under its new name


def test_overwrite_where_no_run_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingBeganError):
        main(["train", str(file), "--overwrite", "train.max_steps=3"])
    assert "--overwrite had nothing to move: there was no run with this name" in capsys.readouterr().err
    assert not (file.parent / "runs" / "mine").exists()


def test_a_wrong_config_moves_nothing(file: Path, done: Path) -> None:
    assert main(["train", str(file), "--overwrite", "train.epochs=x"]) == 2
    assert (done / "summary.json").exists()


@pytest.mark.parametrize("arguments", [["--overwrite"], ["train.max_steps=9"]])
def test_a_second_start_is_refused_before_it_starts_a_cluster(
    file: Path, done: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with in_use(done):
        assert main(["train", str(file), *arguments]) == 2
    message = capsys.readouterr().err.splitlines()[-2:]
    assert message[0].startswith(f"medray: {file}: run.name = 'mine': the run folder {done} is in use")
    assert message[0].endswith("on host gpu-7, pid 4711, since 2026-01-02 03:04:05+00:00")
    assert message[1].startswith("  Fix: wait until it ends, stop it")
    assert sorted(path.name for path in done.parent.iterdir()) == ["mine"]
    with pytest.raises(TrainingBeganError):
        main(["train", str(file), *arguments])


def test_a_done_run_of_another_config_is_refused_with_old_and_new_values(
    file: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(file), "peft.type=none", "peft.rank=4", "method.alpha=0.1"]) == 2
    message = capsys.readouterr().err
    assert "another config: method.alpha 0.5 -> 0.1, peft.rank 16 -> 4\n" in message
    assert "medray: command line: method.alpha" in message
    assert "Traceback" not in message


def steps_in_mlflow(uri: str) -> list[int]:
    """Return the steps of the only run in MLflow, which has ended and has its last metrics once."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("medray")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [one.value for one in client.get_metric_history(run.info.run_id, "final/samples")] == [24.0]
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["config.yaml", "summary.json"]
    return [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")]


def test_the_next_start_of_a_done_run_sends_what_mlflow_missed(
    file: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = file.parent / "away"
    away.touch()  # where the folder of MLflow's database would be
    uri = f"sqlite:///{away}/mlflow.db"
    command = ["train", str(file), f"tracking.uri={uri}"]
    ledger = Ledger(str(done), tracking_spec(read(file, command[2:])))
    ledger.open(resumed_step=0)
    for step in (1, 2, 3):
        ledger.step({"step": step, "loss": 1.0 / step})
    ledger.close(SUMMARY, artifacts(done))

    assert main(command) == 0
    said = capsys.readouterr().err
    assert "did not receive the records of an earlier start, config.yaml, summary.json" in said
    assert "start the run again to send them" in said
    assert "MLflow has all" not in said

    away.unlink()
    assert main(command) == 0
    assert "MLflow has all of this run now" in capsys.readouterr().err
    assert steps_in_mlflow(uri) == [1, 2, 3]

    assert main(command) == 0
    assert "MLflow lacks" not in capsys.readouterr().err


KILLED = """
import os, signal, sys, time
from medray.config import read
from medray.tracking import Ledger
from medray.train.driver.tracking import tracking_spec
ledger = Ledger(sys.argv[2], tracking_spec(read(sys.argv[1])))
ledger.open(resumed_step=0)
for step in (1, 2, 3):
    ledger.step({"step": step, "loss": 1.0 / step})
while ledger.mlflow_run_id() is None:
    time.sleep(0.05)  # to spin would keep the sending thread from the interpreter
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "start",
    [
        lambda file: main(["train", str(file)]),
        pytest.param(lambda file: train.run(read(file)), marks=pytest.mark.long),
    ],
    ids=["cli", "python"],
)
def test_a_driver_that_is_killed_before_mlflow_had_the_end_leaves_it_to_the_next_start(
    file: Path, done: Path, start: Callable[[Path], object]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(done)], check=False)
    assert killed.returncode == -signal.SIGKILL
    start(file)
    assert steps_in_mlflow(f"sqlite:///{done.parent}/mlflow.db") == [1, 2, 3]


def test_what_another_start_may_be_sending_is_not_sent_twice(
    file: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / UNSENT_FILE).touch()
    with in_use(done):
        assert main(["train", str(file)]) == 0
    assert "which is not sent now: the run folder" in capsys.readouterr().err
    assert not (done.parent / "mlflow.db").exists()
    assert (done / UNSENT_FILE).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_before_anything_has_begun(file: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "medray", "train", str(file)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "start" in process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == (130 if number == signal.SIGINT else 75), said
    assert "run the same command again" in said
    assert "Traceback" not in said


def test_what_a_summary_lacks_and_a_shorter_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read(str(file), ["train.max_steps=3"])
    folder = file.parent / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(config))
    (folder / "export").mkdir()
    (folder / "export" / "config.json").touch()
    (folder / "export" / "model.safetensors").touch()
    for half in ('{"status": "done"}', "[]", "3"):
        (folder / "summary.json").write_text(half)
        assert finished_result(config) is None
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    before = (folder / "config.yaml").read_text()
    for steps, done in (("2", True), ("3", True), ("4", False)):
        assert (finished_result(read(str(file), [f"train.max_steps={steps}"])) is not None) is done, steps
    assert (folder / "config.yaml").read_text() == before
