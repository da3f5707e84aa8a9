"""Jobs for `medray launch job`: preparing and submitting a job to a running Ray cluster, and finding the jobs of a run."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medray
from medray.config import Config
from medray.errors import InputError
from medray.launch import environment
from medray.launch.environment import PYTHONS
from medray.launch.job.package import CONFIG_FILE, Package, pack
from medray.launch.job.server import RUN, STORAGE, VERB, VERSION, Address, Job, JobServer

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
SPARE_SECONDS = 300
# Ray's job server uses the id in the names of a log file and an actor, and in a URL.
LONGEST_ID_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that is ready to be submitted to a job server.

    withheld: environment variables that are not sent, each with the reason.
    """

    address: str
    job_id: str
    entrypoint: str
    variables: dict[str, str]
    withheld: dict[str, str]
    metadata: dict[str, str]
    package: Package

    @property
    def runtime_env(self) -> dict[str, Any]:
        env: dict[str, Any] = {"working_dir": str(self.package.folder), "env_vars": self.variables}
        if self.package.modules is not None:
            env["py_modules"] = [str(self.package.modules)]
        return env


def prepare(
    config: Config,
    address: Address,
    into: Path,
    *,
    verb: str = "train",
    words: Sequence[str] = (),
    hosts: frozenset[str] = frozenset(),
    with_data: bool = False,
    exclude: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    now: float | None = None,
) -> Submission:
    """Run the checks that need no cluster, and prepare a submission with its package in the folder `into`.

    words: further command line words for the verb, after the config. hosts: names of the cluster's nodes, empty if
    unknown. now: seconds since the epoch. Raises InputError.
    """
    now = time.time() if now is None else now
    seen = seen_by(config, address, hosts)
    where = f"the cluster at {address.url}"
    package = pack(config, into, seen=seen, where=where, with_data=with_data, exclude=exclude)
    variables, withheld = _environment(config, environ, seen)
    run = config.run.name
    # With this time, the driver obeys a `medray stop` between now and its start, and ignores an older one.
    launched = ["--launched-at", str(int(now))] if verb in ("train", "tune") else []
    return Submission(
        address=address.url,
        job_id=job_id(run, now),
        entrypoint=shlex.join(
            [config.launch.job.python, "-m", "medray", *verb.split(), CONFIG_FILE, *launched, *words]
        ),
        variables=variables,
        withheld=withheld,
        metadata={
            RUN: run,
            STORAGE: config.run.storage,
            VERB: verb,
            VERSION: medray.__version__,
        },
        package=package,
    )


def job_id(run: str, now: float) -> str:
    """Return the id of a new job, `medray-<run.name>-<time>`. Ray does not allow an id to be used twice."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", run)[:LONGEST_ID_NAME]
    return f"medray-{plain}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def is_here(address: Address, hosts: frozenset[str]) -> bool:
    """Return whether the cluster runs on this machine only. hosts: names of its nodes, empty if unknown.

    A loopback address does not show that: it may be a forwarded port, and then the nodes are on other hosts.
    """
    return address.loopback and hosts <= {socket.gethostname()}


def seen_by(config: Config, address: Address, hosts: frozenset[str]) -> Callable[[str], bool]:
    """Return a function that says whether the cluster can read an absolute path of this machine.

    It can if the path is in a shared folder, or if the cluster runs on this machine.
    """
    here = is_here(address, hosts)
    shared = [Path(folder) for folder in config.launch.job.shared_folders]

    def seen(path: str) -> bool:
        if not os.path.isabs(path):
            return False
        plain = Path(os.path.normpath(path))
        return here or any(plain == folder or folder in plain.parents for folder in shared)

    return seen


def _environment(
    config: Config, environ: Mapping[str, str], seen: Callable[[str], bool]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables to send, and the withheld ones with reasons. A job server shows its jobs, so send no secrets."""
    found = environment.allowed(config.launch.env, environ)
    withheld = dict.fromkeys(sorted(found.secret), "a secret")
    sent = {}
    for name, value in sorted(found.plain.items()):
        if os.path.isabs(value) and not seen(value):
            withheld[name] = "a path that the cluster does not see"
        else:
            sent[name] = value
    # Otherwise Ray, if started by `uv run`, creates an environment for every worker from a project that is not sent.
    sent.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The time between TERM and KILL. Ray's default of 3 s is too short for a checkpoint: a step may take up to
    # hang_seconds, and saving up to save_patience_minutes.
    save = config.train.save_patience_minutes * 60
    sent.setdefault(STOP_WAIT, str(int(config.cluster.hang_seconds + save + SPARE_SECONDS)))
    return sent, withheld


def check_versions(config: Config, python: str, ray: str) -> str | None:
    """Compare the versions of the head node with this machine's. Return a note if it has another Python, else None.

    python, ray: versions of the head node, "" if unknown. Raises InputError if the package that is sent would not run
    on the head node.
    """
    if not config.launch.job.send_package:
        return None
    import ray as own

    if ray and ray.split(".")[:2] != own.__version__.split(".")[:2]:
        raise InputError(
            f"the cluster has Ray {ray}, but the medray that would be sent needs Ray {own.__version__}",
            key="launch.job.send_package",
            value=True,
            fix=f"use a cluster with Ray {own.__version__}, or set launch.job.send_package: false if medray is installed on the cluster",
        )
    minor = tuple(int(part) for part in python.split(".")[:2] if part.isdigit())
    if len(minor) == 2 and minor not in PYTHONS:
        raise InputError(
            f"the cluster has Python {python}, but medray needs {' or '.join(f'{a}.{b}' for a, b in PYTHONS)}",
            key="launch.job.send_package",
            value=True,
            fix="use a cluster with one of these versions, or set launch.job.send_package: false if medray is installed there",
        )
    if len(minor) == 2 and minor != sys.version_info[:2]:
        mine = ".".join(map(str, sys.version_info[:2]))
        return f"the cluster has Python {python}, this machine has {mine}; medray runs on both"
    return None


def refuse_second(jobs: Sequence[Job], config: Config) -> None:
    """Raise InputError if another job of the same run waits or runs, because both would write to the same folder."""
    for job in jobs:
        if job.active and (job.run, job.storage) == (config.run.name, config.run.storage):
            raise InputError(
                f"this run already has a job on the cluster: {job.id}, {job.status}",
                key="run.name",
                value=job.run,
                fix=f"follow the job with `medray launch job --attach {job.run}`, stop it with --stop {job.run}, or use "
                "another run.name",
            )


def find(jobs: Sequence[Job], name: str, option: str) -> Job:
    """Return the job of a run: the newest active one, or the newest of all if none is active.

    name: run.name, <storage>/<run.name> or the id of a job. option: the option that gave the name, for messages.
    Raises InputError if no job fits, or if jobs of several storages fit.
    """
    fitting = [job for job in jobs if name in (job.id, job.run, f"{job.storage.rstrip('/')}/{job.run}")]
    if not fitting:
        runs = ", ".join(sorted({job.run for job in jobs})[:10])
        raise InputError(
            "the cluster has no job of this run",
            key=option,
            value=name,
            fix=f"use the name of a run that has jobs: {runs}"
            if runs
            else "launch one first with `medray launch job CONFIG`",
        )
    fitting = [job for job in fitting if job.active] or fitting
    storages = {job.storage for job in fitting}
    if len(storages) > 1:
        raise InputError(
            f"the cluster has jobs of {len(storages)} runs with this name",
            key=option,
            value=name,
            fix="use " + " or ".join(f"{each}/{fitting[0].run}" for each in sorted(storages)[:5]),
        )
    return fitting[-1]


def submit(server: JobServer, submission: Submission) -> None:
    server.submit(submission.job_id, submission.entrypoint, submission.runtime_env, submission.metadata)
