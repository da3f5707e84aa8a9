"""Submitted jobs of SLURM: their state and exit code, and their log. Uses scontrol, because many sites lack sacct."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medray.errors import RunFailedError

ENDED = frozenset(
    [
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
        "PREEMPTED",
        "OUT_OF_MEMORY",
        "BOOT_FAIL",
        "DEADLINE",
        "REVOKED",
    ]
)
# Reasons for which a job would wait forever.
HOPELESS = (
    "DependencyNeverSatisfied",
    "BadConstraints",
    "JobHeldAdmin",
    "InvalidAccount",
    "InvalidQOS",
    "launch_failed",
)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0  # seconds between two queries: slurmctld serves all users
UNANSWERED_SECONDS = 600  # scontrol may fail for this time while slurmctld restarts


@dataclass(frozen=True)
class Job:
    """The state of a SLURM job, as scontrol reports it.

    state: SLURM's word for it, such as PENDING. code: exit code of the job as a shell shows it.
    reason: why the job waits. log: its output file.
    """

    state: str
    reason: str
    code: int
    restarts: int
    log: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def parse(said: str) -> Job:
    """Parse the output of `scontrol show job ID -o`."""

    def field(name: str) -> str:
        found = re.search(rf"(?:^|\s){name}=(\S*)", said)
        return found[1] if found else ""

    state = field("JobState")
    code, _, signal = field("ExitCode").partition(":")
    number = int(code or 0) or (128 + int(signal) if signal not in ("", "0") else 0)
    if state in ENDED and state != "COMPLETED":
        number = number or 1  # a job that is cancelled in the queue has the code 0:0
    log = re.search(r"\sStdOut=(.*?)(?:\s[A-Z]\w+=|\s*$)", said)
    return Job(state, field("Reason"), number, int(field("Restarts") or 0), log[1] if log else "")


def ask(number: str) -> Job | None:
    """Ask SLURM for a job; None if scontrol does not answer or no longer knows it."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", number, "-o"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(done.stdout) if done.returncode == 0 and "JobState=" in done.stdout else None


def follow(number: str, log: Path, output: BinaryIO, say: Callable[[str], None]) -> Job:
    """Copy the log to `output` until the job has ended and is not requeued.

    Raises RunFailedError if SLURM does not answer about the job for ten minutes, or if the job can never start.
    """
    at, shown, pause, answered = 0, "", FIRST_PAUSE, time.monotonic()
    while True:
        job = ask(number)  # asked before the log is read, so that the log of a job that has ended is complete
        before, at = at, _copy(log, at, output)
        if job is None:
            if time.monotonic() - answered > UNANSWERED_SECONDS:
                raise RunFailedError(
                    f"SLURM has not answered about job {number} for {UNANSWERED_SECONDS} s. Fix: check with `squeue --me` whether "
                    f"the job runs; its log is {log}"
                )
        else:
            answered = time.monotonic()
            state = f"{job.state} ({job.reason})" if job.state == "PENDING" else job.state
            if state != shown:
                say(f"job {number}: {state}")
                shown = state
            if job.ended:
                return job
            if job.state == "PENDING" and job.reason.startswith(HOPELESS):
                raise RunFailedError(
                    f"job {number} can never start ({job.reason}). Fix: remove it with `scancel {number}`, solve this "
                    "reason, and launch again"
                )
        pause = FIRST_PAUSE if at > before else min(pause * 1.5, LONGEST_PAUSE)
        time.sleep(pause)


def _copy(log: Path, at: int, output: BinaryIO) -> int:
    try:
        with log.open("rb") as stream:
            stream.seek(at)
            while block := stream.read(1 << 16):
                output.write(block)
                at += len(block)
    except FileNotFoundError:
        return at
    output.flush()
    return at
