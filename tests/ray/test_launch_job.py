"""`medray launch job` on a head that asks for a token: the driver's exit code, its log, stopping and going on."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import steps_of, until, write_config
from runs import checkpoints, final

import medray
from medray.cli.main import main
from medray.launch.job.server import Address, JobServer

ELSEWHERE = "9.9.9"  # version of the medray that is sent, which is none that the cluster has
STEPS = 400  # of a run that is stopped before its end: seconds, in which the commands that stop it start


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a medray that differs from the installed one."""
    folder = tmp_path_factory.mktemp("sent")
    shutil.copytree(
        Path(medray.__file__).parent, folder / "medray", ignore=shutil.ignore_patterns("__pycache__")
    )
    init = folder / "medray" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{ELSEWHERE}"', init.read_text()))
    return folder


def start(cluster: Any, sent: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    own = () if str(arguments[0]).startswith("--") else (f"launch.job.python={sys.executable}",)
    return subprocess.Popen(
        [sys.executable, "-m", "medray", "launch", "job", *map(str, arguments), *own],
        env={
            **os.environ,
            "PYTHONPATH": str(sent),
            "RAY_API_SERVER_ADDRESS": cluster.jobs,
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=sent,
    )


def launch(cluster: Any, sent: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    process = start(cluster, sent, *arguments, **environment)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, out, err


def test_a_run_as_a_job_of_the_medray_that_launches_it_is_stopped_on_request(
    cluster: Any, sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = write_config(tmp_path, "launched", 100_000), tmp_path / "runs" / "launched"
    follower = start(cluster, sent, config, "--json")
    until(lambda: bool(steps_of(folder)), "a step", driver=follower)
    assert main(["stop", str(folder)]) == 0
    out, err = follower.communicate(timeout=200)
    assert follower.returncode == 76, err
    told = json.loads(out.splitlines()[-1])
    assert (told["run"], told["status"], told["driver_exit_code"]) == ("launched", "FAILED", 76)
    assert checkpoints(folder)[-1] == len(steps_of(folder))
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    assert "stopped" in capsys.readouterr().out
    assert main(["logs", str(folder)]) == 0
    assert capsys.readouterr().out.count("cluster     2 workers") == 1
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        found = database.execute("select value from tags where key = 'medray.version'").fetchall()
    assert found == [(ELSEWHERE,)]


@pytest.mark.long
def test_a_job_whose_input_is_wrong_ends_with_2(cluster: Any, sent: Path, tmp_path: Path) -> None:
    """Wrong in a file into which the driver looks, and the launcher does not."""
    config = write_config(tmp_path, "wrong", 4)
    config.with_name("train.jsonl").write_text('{"other": 1}\n')
    code, _, err = launch(cluster, sent, config)
    assert (code, "exit code 2" in err, "Traceback" in err) == (2, True, False), err
    assert "train.jsonl" in err


def test_what_the_head_tells_of_itself(cluster: Any) -> None:
    import ray

    server = JobServer(Address(cluster.jobs))
    assert server.versions() == (platform.python_version(), ray.__version__)
    assert server.hosts() == {socket.gethostname()}


@pytest.mark.long
def test_no_token_or_a_wrong_one_is_wrong_input_and_a_file_of_it_does(
    cluster: Any, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wr0ng" * 8)
    code, _, err = launch(cluster, sent, "--list")
    assert (code, "refuses the token" in err, "RAY_AUTH_TOKEN_PATH" in err) == (2, True, True), err
    assert "wr0ng" not in err
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray would look for one
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    code, _, err = launch(cluster, sent, "--list")
    assert (code, "requires a token" in err, "RAY_AUTH_MODE=token" in err) == (2, True, True), err
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    code, out, err = launch(cluster, sent, "--list")
    assert (code, token in out + err) == (0, False), err


@pytest.mark.long
def test_a_stopped_job_goes_on_in_a_second_one(cluster: Any, sent: Path, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "stopped", STEPS), tmp_path / "runs" / "stopped"
    follower = start(cluster, sent, config)
    until(lambda: len(steps_of(folder)) >= 3, "step 3")
    follower.send_signal(signal.SIGINT)
    attached = start(cluster, sent, "--attach", "stopped")
    code, _, err = launch(cluster, sent, "--stop", "stopped")
    assert (code, "STOPPED" in err) == (0, True), err
    _, err = follower.communicate(timeout=60)
    assert (follower.returncode, "the job continues" in err) == (130, True), err
    _, err = attached.communicate(timeout=60)
    assert (attached.returncode, "SIGTERM: stopping" in err, "STOPPED" in err) == (75, True, True), err
    steps = json.loads((folder / "summary.json").read_text())["steps"]
    assert 3 <= steps < STEPS
    assert list((folder / "checkpoints").glob(f"step-{steps:08d}-*/manifest.json"))

    # By an address that does not say that the cluster is this machine, so that the data have to be sent.
    elsewhere = (
        f"launch.job.address={cluster.jobs.replace('127.0.0.1', '0.0.0.0')}",
        f"launch.job.shared_folders=[{tmp_path / 'runs'}]",
    )
    environment = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}  # the config's comes first
    code, _, err = launch(cluster, sent, config, *elsewhere, **environment)
    assert (code, "train.jsonl is a path on this machine" in err) == (2, True), err
    second = start(cluster, sent, config, *elsewhere, "--with-data", **environment)

    def running() -> list[dict[str, Any]]:
        found = json.loads(launch(cluster, sent, "--list", "--json")[1])["jobs"]
        return [job for job in found if job["run"] == "stopped" and job["status"] in ("PENDING", "RUNNING")]

    until(lambda: bool(running()), "the second job", driver=second)
    code, _, err = launch(cluster, sent, config)
    assert (code, "already has a job" in err, "--attach stopped" in err) == (2, True, True), err
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    assert f"resumed after step {steps}" in err
    assert len(final(folder)[1]) == STEPS

    code, out, _ = launch(cluster, sent, "--remove-old", "--json")
    assert (code, len([name for name in json.loads(out)["removed"] if "-stopped-" in name])) == (0, 2)
    assert "stopped" not in launch(cluster, sent, "--list")[1]
