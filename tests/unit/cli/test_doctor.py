"""Tests of the command `medray doctor`: exit codes, table and JSON, and that it prints no value of the environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medray.cli.doctor import ORDER
from medray.cli.main import main
from medray.launch.doctor import machine, places
from medray.launch.doctor.examination import examined
from medray.launch.doctor.finding import Question

SECRET = "s3cr3t-0f-doctor"


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "medray", "doctor", *words],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_this_machine(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: {storage: runs}\n")
    secrets = {
        "RAY_AUTH_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "HF_TOKEN": SECRET,
        "RAY_AUTH_MODE": "token",
    }
    done = doctor(
        str(tmp_path / "run.yaml"), "--json", "--address=local", RAY_ADDRESS=f"{SECRET}:1", **secrets
    )
    *_, last = done.stdout.splitlines()
    found = json.loads(last)
    states = {one["name"]: one["state"] for one in found["findings"]}
    assert {"python", "packages", "gpu", "disk", "memory", "storage", "MLflow"} <= set(states)
    assert states["storage"] == states["MLflow"] == states["model"] == states["ray auth"] == "ok"
    assert found["state"] == ("fail" if "fail" in states.values() else found["state"])
    assert done.returncode == (1 if found["state"] == "fail" else 0)
    assert f"{tmp_path}/runs works: a file was written, read back, renamed and locked" in done.stderr
    assert "not checked" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_check_that_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor("--storage", str(tmp_path / "file"))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (number,) = (number for number, line in enumerate(lines) if line.startswith("fail  storage"))
    assert lines[number + 1].strip().startswith("Fix: ")
    assert lines[-1] == "not checked: the model, MLflow (give a config that sets them)"


def test_a_cluster_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = doctor("--json", RAY_ADDRESS=f"127.0.0.1:{port}")
    (found,) = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    assert (found["name"], found["state"]) == ("cluster", "fail")
    assert "Connection refused" in found["detail"]
    assert "ray start --head" in found["fix"]


def test_every_line_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    checks = {*machine.MACHINE, *machine.ALONE, *places.ALONE, *places.ON_NODES, *places.DRIVER}
    assert checks <= set(ORDER)
    assert [name for name in ORDER if f"\n| `{name}` |" not in page] == []


def test_an_examination_that_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (found,) = examined(Question())
    assert (found.name, found.state, found.detail) == (
        "doctor",
        "fail",
        "the checks did not end in time (0 findings arrived)",
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["absent.yaml"], "there is no such config file"),
        (["--address=http://head:8265"], "is not the address of a Ray head"),
        (["--address=ray://head:10001"], "is not the address of a Ray head"),
        (["--storage=gs://bucket"], "neither a folder nor an S3 bucket"),
        ([f"--storage=s3://user:{SECRET}@bucket"], "contains a user name or a password"),
    ],
)
def test_wrong_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Fix: " in told
    assert SECRET not in told
