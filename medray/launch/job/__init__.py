"""`medray launch job`: what is submitted to a Ray cluster that runs already, and which of its jobs are a run's."""

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
# Ray's job server names a log file, an actor and a URL after the id.
LONGEST_ID_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a job server gets. withheld: variables of the environment that were not sent, each with the reason."""

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
    """What would be submitted, packed into the folder `into`, after every check that needs no cluster.

    words: after the config, for the verb. hosts: names of the cluster's nodes, empty where they are not known.
    now: seconds since the epoch. Raises InputError.
    """
    now = time.time() if now is None else now
    seen = seen_by(config, address, hosts)
    where = f"the cluster at {address.url}"
    package = pack(config, into, seen=seen, where=where, with_data=with_data, exclude=exclude)
    variables, withheld = _environment(config, environ, seen)
    run = config.run.name
    # So that a `medray stop` between now and the driver's start holds, and an older one does not.
    launched = ["--launched-at", str(int(now))] if verb == "train" else []
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
    """`medray-<run.name>-<time>`: never used twice, even after jobs were removed, which Ray does not support."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", run)[:LONGEST_ID_NAME]
    return f"medray-{plain}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def is_here(address: Address, hosts: frozenset[str]) -> bool:
    """Whether the cluster is this machine. hosts: names of its nodes, empty where they are not known.

    A loopback address alone does not say so: it may be a forwarded port, and then other hosts have the nodes.
    """
    return address.loopback and hosts <= {socket.gethostname()}


def seen_by(config: Config, address: Address, hosts: frozenset[str]) -> Callable[[str], bool]:
    """Whether the cluster sees an absolute path of this machine: below a shared folder, or the cluster is this machine."""
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
    """Variables that go with the job, and those that do not. A job server shows what it gets: no secret goes there."""
    found = environment.allowed(config.launch.env, environ)
    withheld = dict.fromkeys(sorted(found.secret), "a secret")
    sent = {}
    for name, value in sorted(found.plain.items()):
        if os.path.isabs(value) and not seen(value):
            withheld[name] = "a path that the cluster does not see"
        else:
            sent[name] = value
    # Ray would make an environment of `uv run` for every worker, of a project that the package does not hold.
    sent.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Between TERM and KILL. Ray's 3 s fit no checkpoint; a step may take as long as a hang, and storage may need its time.
    save = config.train.save_patience_minutes * 60
    sent.setdefault(STOP_WAIT, str(int(config.cluster.hang_seconds + save + SPARE_SECONDS)))
    return sent, withheld


def check_versions(config: Config, python: str, ray: str) -> str | None:
    """A note where the head node has another Python than this machine, None where not.

    python, ray: versions of the head node, "" where not known. Raises InputError where the package that is sent would
    not run there.
    """
    if not config.launch.job.send_package:
        return None
    import ray as own

    if ray and ray.split(".")[:2] != own.__version__.split(".")[:2]:
        raise InputError(
            f"the cluster has Ray {ray}, and the medray that would be sent is made for {own.__version__}",
            key="launch.job.send_package",
            value=True,
            fix="use a cluster with this Ray; or false, where the cluster has a medray for its own",
        )
    minor = tuple(int(part) for part in python.split(".")[:2] if part.isdigit())
    if len(minor) == 2 and minor not in PYTHONS:
        raise InputError(
            f"the cluster has Python {python}, and medray needs {' or '.join(f'{a}.{b}' for a, b in PYTHONS)}",
            key="launch.job.send_package",
            value=True,
            fix="use a cluster with one of these",
        )
    if len(minor) == 2 and minor != sys.version_info[:2]:
        mine = ".".join(map(str, sys.version_info[:2]))
        return f"the cluster has Python {python}, this machine {mine}: medray runs on both"
    return None


def refuse_second(jobs: Sequence[Job], config: Config) -> None:
    """Raises InputError while a job of the same run waits or runs: both would write into one folder."""
    for job in jobs:
        if job.active and (job.run, job.storage) == (config.run.name, config.run.storage):
            raise InputError(
                f"a job of this run is {job.status} there: {job.id}",
                key="run.name",
                value=job.run,
                fix=f"follow it with: medray launch job --attach {job.run}; stop it with --stop {job.run}; or use another "
                "run.name",
            )


def find(jobs: Sequence[Job], name: str, option: str) -> Job:
    """The job of a run: one that is active before one that has ended, the newest first.

    name: run.name, <storage>/<run.name> or the id of a job. Raises InputError where none fits, or runs of several
    storages do.
    """
    fitting = [job for job in jobs if name in (job.id, job.run, f"{job.storage.rstrip('/')}/{job.run}")]
    if not fitting:
        runs = ", ".join(sorted({job.run for job in jobs})[:10])
        raise InputError(
            "no job of this run is known there",
            key=option,
            value=name,
            fix=f"runs with jobs: {runs}" if runs else "medray launch job CONFIG makes the first one",
        )
    fitting = [job for job in fitting if job.active] or fitting
    storages = {job.storage for job in fitting}
    if len(storages) > 1:
        raise InputError(
            f"jobs of {len(storages)} runs of this name are known there",
            key=option,
            value=name,
            fix="name one as " + " or ".join(f"{each}/{fitting[0].run}" for each in sorted(storages)[:5]),
        )
    return fitting[-1]


def submit(server: JobServer, submission: Submission) -> None:
    server.submit(submission.job_id, submission.entrypoint, submission.runtime_env, submission.metadata)
