"""Jobs of `medray launch slurm` on a real SLURM of two nodes that are warned, killed, cancelled or stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command, steps_of, until, write_config
from runs import checkpoints, final
from slurm_cluster import ENDED, NODES, Slurm, absent, slurm_cluster

STEPS = 60
# Nodes of two CPUs hold one worker each, and have no CPU for data but those that the workers leave.
TWO_NODES = ("cluster.nodes=2", "cluster.cpus_per_worker=1", "launch.slurm.cpus_per_node=2")
WARN = ("scancel", "--signal=USR1", "--batch")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if reason := absent():
        pytest.skip(reason)
    with slurm_cluster() as started:
        yield started


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for Ray's files on the jobs' nodes. Its path is short, because it contains sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without SLURM, to which nothing happens."""
    folder = tmp_path_factory.mktemp("calm")
    config = write_config(folder, "calm", STEPS)
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "calm"


class Launch:
    """A submitted run of the test, launched by `medray launch slurm`."""

    def __init__(self, slurm: Slurm, config: Path, *words: str) -> None:
        self.slurm, self.run_folder = slurm, config.parent / "runs" / config.stem
        self.said, self.ask_again = config.with_suffix(".said"), 0.0
        env = "launch.env=[PYTHONPATH, HF_HUB_OFFLINE, RAY_TMPDIR, OMP_NUM_THREADS]"
        medray = [sys.executable, "-m", "medray", "launch", "slurm", str(config), env, *words]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                slurm.command("c0", *medray), env=slurm.environment, stdout=said, stderr=said
            )
        until(lambda: bool(self._found("job (\\d+) of")) or self.process.poll() is not None, "a job id")
        if not (found := self._found("job (\\d+) of")):
            raise AssertionError(self.said.read_text())
        self.job = found
        until(lambda: bool(self._found("log +(.+)")), "the log's name")
        self.log_file = Path(self._found("log +(.+)"))
        assert "--follow" in words or self.process.wait(60) == 0

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.said.read_text())
        return found[1] if found else ""

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def at_step(self, step: int) -> None:
        """Waits until the run has come so far; a job that has ended fails."""
        until(lambda: len(steps_of(self.run_folder)) >= step or self._has_ended(), f"step {step}")
        assert len(steps_of(self.run_folder)) >= step, self.log

    def _has_ended(self) -> bool:
        """Asked of SLURM every second only: the nodes need the CPU."""
        if time.monotonic() < self.ask_again:
            return False
        self.ask_again = time.monotonic() + 1
        return self.slurm.job(self.job)["JobState"] in ENDED

    def ended(self, state: str, code: int) -> dict[str, str]:
        job = self.slurm.ended(self.job)
        assert (job["JobState"], job["ExitCode"].partition(":")[0]) == (state, str(code)), self.log
        self.process.wait(60)  # which has followed the job
        return job

    def left(self) -> set[str]:
        return {path.name for path in self.log_file.parent.iterdir()}


def same(run: Path, calm: Path) -> None:
    """Asserts the bits of the calm run: weights after the last step, every loss, and what was exported."""
    assert final(run) == final(calm)
    exported, wanted = (
        {path.relative_to(folder): path.read_bytes() for path in (folder / "export").rglob("*.safetensors")}
        for folder in (run, calm)
    )
    assert wanted
    assert exported == wanted


OF_A_JOB = ("ray.scripts", "ray::", "raylet/raylet", "gcs_server", "-m medray")


def nothing_left(slurm: Slurm, ray_folder: Path) -> None:
    """Asserts that the nodes have neither files nor processes of a job that has ended."""
    assert list(ray_folder.iterdir()) == []

    def left() -> list[int]:
        return [pid for node in NODES for words in OF_A_JOB for pid in slurm.pids(node, words)]

    until(lambda: not left(), "the end of all processes", 60)


def test_a_run_of_two_nodes(slurm: Slurm, tmp_path: Path, ray_folder: Path) -> None:
    launch = Launch(slurm, write_config(tmp_path, "two", 2), "--follow", *TWO_NODES)
    assert launch.ended("COMPLETED", 0)["Restarts"] == "0"
    assert launch.process.wait(60) == 0
    assert "4 CPUs in the cluster" in launch.said.read_text(), "the driver has waited for both nodes"
    assert len(final(launch.run_folder)[1]) == 2
    assert launch.left() == {"config.yaml", launch.log_file.name}
    assert {
        path.stat().st_mode & 0o077 for path in (launch.log_file.parent, *launch.log_file.parent.iterdir())
    } == {0}
    nothing_left(slurm, ray_folder)


@pytest.mark.long
def test_a_run_that_is_warned_goes_back_into_the_queue_and_ends_as_a_calm_one(
    slurm: Slurm, calm: Path, tmp_path: Path, ray_folder: Path
) -> None:
    launch = Launch(slurm, write_config(tmp_path, "warned", STEPS), "--follow", *TWO_NODES)
    launch.at_step(5)
    slurm.run(*WARN, launch.job)
    slurm.start_again(launch.job)
    assert launch.ended("COMPLETED", 0)["Restarts"] == "1"
    assert launch.process.wait(60) == 0
    said = launch.said.read_text()
    assert "back into the queue" in said, said
    assert "resumed after step" in said
    assert launch.left() == {"config.yaml", launch.log_file.name, "step"}
    same(launch.run_folder, calm)
    nothing_left(slurm, ray_folder)


def test_what_sbatch_refuses_is_wrong_input(slurm: Slurm, tmp_path: Path) -> None:
    config = write_config(tmp_path, "refused", STEPS)
    launch = [
        sys.executable,
        "-m",
        "medray",
        "launch",
        "slurm",
        str(config),
        "launch.slurm.partition=nowhere",
    ]
    done = slurm.run(*launch, check=False)
    assert done.returncode == 2, done.stderr
    assert "invalid partition" in done.stderr
    assert not list((tmp_path / "runs" / "launch").iterdir())


def test_a_head_that_does_not_start_ends_the_job_with_what_it_said(
    slurm: Slurm, tmp_path: Path, ray_folder: Path
) -> None:
    (broken := tmp_path / "python").write_text("#!/bin/sh\necho no Ray in this Python\nexit 4\n")
    broken.chmod(0o755)
    launch = Launch(
        slurm, write_config(tmp_path, "headless", STEPS), *TWO_NODES, f"launch.slurm.python={broken}"
    )
    launch.ended("FAILED", 1)
    assert "no Ray in this Python" in launch.log
    assert "Ray's head on n1 ended while it started" in launch.log
    assert launch.left() == {"config.yaml", launch.log_file.name}


@pytest.mark.long
def test_a_killed_driver_ends_its_job_and_the_next_job_ends_as_a_calm_run(
    slurm: Slurm, calm: Path, tmp_path: Path, ray_folder: Path
) -> None:
    config = write_config(tmp_path, "killed", STEPS)
    launch = Launch(slurm, config, *TWO_NODES)
    launch.at_step(15)
    for driver in slurm.pids("n1", "-m medray train"):
        if not slurm_client(driver):
            os.kill(driver, signal.SIGKILL)
    launch.ended("FAILED", 128 + signal.SIGKILL)
    launch = Launch(slurm, config, *TWO_NODES)
    launch.ended("COMPLETED", 0)
    assert "resumed after step" in launch.log
    same(launch.run_folder, calm)
    nothing_left(slurm, ray_folder)


def slurm_client(pid: int) -> bool:
    return b"srun" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


@pytest.mark.long
def test_a_raylet_that_dies_ends_the_job(slurm: Slurm, tmp_path: Path, ray_folder: Path) -> None:
    launch = Launch(slurm, write_config(tmp_path, "raylet", 100_000), *TWO_NODES)
    launch.at_step(5)
    (raylet,) = slurm.pids("n2", "/raylet/raylet --")
    os.kill(raylet, signal.SIGKILL)
    launch.ended("FAILED", 1)
    assert "Ray on n2 has ended by itself" in launch.log
    assert "Ray has ended on a worker node" in launch.log
    nothing_left(slurm, ray_folder)


@pytest.mark.long
def test_a_node_that_never_comes_is_named_by_numbers(slurm: Slurm, tmp_path: Path, ray_folder: Path) -> None:
    """Python sleeps on n2, so its Ray never starts."""
    (python := tmp_path / "python").write_text(
        f'#!/bin/sh\n[ "$(hostname)" = n2 ] && exec sleep 1000\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    words = (*TWO_NODES, f"launch.slurm.python={python}", "cluster.start_timeout_seconds=30")
    launch = Launch(slurm, write_config(tmp_path, "alone", STEPS), *words)
    launch.ended("FAILED", 1)
    assert "asked: 2 nodes" in launch.log
    assert "there: 1 node with 2 CPUs" in launch.log
    nothing_left(slurm, ray_folder)


@pytest.mark.long
@pytest.mark.parametrize(("by", "state", "code"), [("stop", "FAILED", 76), ("scancel", "CANCELLED", 75)])
def test_a_run_that_is_stopped_saves_and_stays_stopped(
    slurm: Slurm, tmp_path: Path, ray_folder: Path, by: str, state: str, code: int
) -> None:
    """The command scancel sends TERM to the whole job, also to Ray; KillWait later it kills."""
    launch = Launch(
        slurm, write_config(tmp_path, "stopped", 100_000), *TWO_NODES, "train.save_every_steps=50000"
    )
    launch.at_step(5)
    medray = [sys.executable, "-m", "medray", "stop", str(launch.run_folder)]
    slurm.run(*(medray if by == "stop" else ("scancel", launch.job)))
    job = launch.ended(state, code)
    assert job["Restarts"] == "0"
    assert checkpoints(launch.run_folder) == [len(steps_of(launch.run_folder))]
    nothing_left(slurm, ray_folder)


@pytest.mark.long
def test_a_preempted_run_saves_and_slurm_starts_it_again(
    slurm: Slurm, calm: Path, tmp_path: Path, ray_folder: Path
) -> None:
    """TERM goes to the steps alone, to Ray's as well, and GraceTime later SLURM takes the nodes."""
    launch = Launch(
        slurm, write_config(tmp_path, "preempted", STEPS), *TWO_NODES, "train.save_every_steps=50"
    )
    launch.at_step(5)
    urgent = ("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    first = slurm.run(*urgent, "--wrap=true").stdout.strip()
    slurm.start_again(launch.job)
    assert launch.ended("COMPLETED", 0)["Restarts"] == "1"
    assert slurm.ended(first)["JobState"] == "COMPLETED"
    assert "preempted: saved" in launch.log
    assert "resumed after step" in launch.log
    same(launch.run_folder, calm)
    nothing_left(slurm, ray_folder)


@pytest.mark.long
def test_two_jobs_share_a_node(slurm: Slurm, calm: Path, tmp_path: Path, ray_folder: Path) -> None:
    """One node each, the same one: two heads, and neither ends the other's processes."""
    words = ("cluster.nodes=1", "launch.slurm.cpus_per_node=3", "--", "--nodelist=n1")
    launches = []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        launches.append(Launch(slurm, write_config(tmp_path / name, name, STEPS), *words))
    for launch in launches:
        launch.ended("COMPLETED", 0)
        same(launch.run_folder, calm)
    first, second = (slurm.job(launch.job) for launch in launches)
    assert first["NodeList"] == second["NodeList"] == "n1"
    assert max(first["StartTime"], second["StartTime"]) < min(first["EndTime"], second["EndTime"]), (
        "not at once"
    )
    nothing_left(slurm, ray_folder)
