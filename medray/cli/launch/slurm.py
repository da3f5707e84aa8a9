"""The verb `medray launch slurm`: submit a config to SLURM."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.config import Config
    from medray.launch.slurm import Submission


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `medray launch slurm` has."""
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        help="shared folder for the job's config, token and log; default: launch/ in run.storage",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="show the log until the job ends, and exit with its exit code",
    )
    parser.epilog = (
        "Words after -- are passed to sbatch, for example: -- --mail-type=END --dependency=singleton (which allows one job "
        "of this run at a time)."
    )


def run(arguments: argparse.Namespace, config: Config) -> int:
    from medray.cli.launch import check_for
    from medray.launch import slurm
    from medray.launch.slurm import jobs
    from medray.launch.slurm.options import passes

    submission = slurm.prepare(
        config, verb=arguments.verb, passed=arguments.passed, folder=arguments.folder or None
    )
    # With the data this time: the login node and the nodes see the same files.
    check_for(arguments.verb, config, data=True)
    told: dict[str, Any] = {"place": "slurm", "folder": str(submission.folder), "log": submission.log}
    told |= {"command": list(submission.command), "environment": dict(submission.variables)}
    told |= {"exported": list(submission.names), "job": None}
    if arguments.dry_run:
        print(json.dumps(told | {"files": dict(submission.files)}) if arguments.json else submission.text())
        return 0
    _warn(submission, config)
    job = slurm.submit(submission)
    if job is None:
        print("medray: sbatch did not create a job", file=sys.stderr)
        return 0
    log = submission.log_of(job)
    if passes(arguments.passed, "--output"):  # SLURM resolves the patterns of this option
        found = jobs.ask(job)
        log = (found.log if found and found.log else log).replace("%j", job)
    told |= {"job": job, "log": log}
    _say_next(submission, config, job, log)
    code = 0
    if arguments.follow:
        code = _follow(job, log, told, to_stderr=arguments.json)
    if arguments.json:
        print(json.dumps(told))
    return code


def _warn(submission: Submission, config: Config) -> None:
    for path in dict.fromkeys((str(submission.folder), config.run.storage)):
        if path.startswith(("/tmp/", "/var/tmp/", "/dev/shm/")):
            print(
                f"medray: the nodes may not see {path}, because on most clusters every node has its own /{path.split('/')[1]}",
                file=sys.stderr,
            )


def _say_next(submission: Submission, config: Config, job: str, log: str) -> None:
    run = f"{config.run.storage.rstrip('/')}/{config.run.name}"
    lines = [
        f"job {job} of {run}",
        f"log     {log}",
        f"status  medray status {run}    squeue --job {job}",
        f"stop    medray stop {submission.folder}/config.yaml    saves; the job is not started again",
        f"end     scancel {job}    saves if saving takes less than the cluster's KillWait",
    ]
    print("\n".join(f"medray: {line}" for line in lines), file=sys.stderr)


def _follow(job: str, log: str, told: dict[str, Any], *, to_stderr: bool) -> int:
    from medray.launch.slurm.jobs import follow

    def say(text: str) -> None:
        print(f"medray: {text}", file=sys.stderr)

    output = (sys.stderr if to_stderr else sys.stdout).buffer
    try:
        ended = follow(job, Path(log), output, say)
    except KeyboardInterrupt:
        say(f"job {job} continues without this command; its log is {log}")
        raise
    told |= {"state": ended.state, "exit_code": ended.code, "restarts": ended.restarts}
    return ended.code
