"""The verb `medray launch job`: run a config as a job of Ray's job server; follow, list, stop and remove such jobs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.errors import InputError, RunFailedError

if TYPE_CHECKING:
    from medray.config import Config
    from medray.launch.job import Submission
    from medray.launch.job.server import Address, Job, JobServer

CONFIG_IS_OPTIONAL = True  # the options for existing jobs need no config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `medray launch job` has."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="address of the cluster's dashboard, http://HOST:8265; default: launch.job.address, else "
        "RAY_API_SERVER_ADDRESS",
    )
    parser.add_argument("--no-follow", action="store_true", help="do not wait until the job ends")
    parser.add_argument(
        "--with-data", action="store_true", help="send the data files that the cluster cannot see"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="with --with-data: do not send files that match this .gitignore pattern; may be repeated",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--list", action="store_true", help="list the jobs that medray launched on the server"
    )
    existing.add_argument("--attach", metavar="RUN", help="follow the existing job of a run")
    existing.add_argument("--stop", metavar="RUN", help="ask the job of a run to save and end")
    existing.add_argument(
        "--remove-old", action="store_true", help="remove the records of ended jobs that medray launched"
    )


def run(arguments: argparse.Namespace, config: Config) -> int:
    from medray.launch.job.server import address_of

    address = address_of(arguments.address, config.launch.job.address, os.environ)
    if _asks_for_existing(arguments):
        return _existing(arguments, address)
    _check_words(arguments)
    with tempfile.TemporaryDirectory(prefix="medray-job-") as folder:  # mode 0700
        if arguments.dry_run:
            return _dry_run(arguments, _prepared(arguments, config, address, Path(folder)), address)
        server, submission = _submitted(arguments, config, address, Path(folder))
    if arguments.no_follow:
        _say(f"follow it with: {_command(address, '--attach', config.run.name)}")
        return _ended(arguments, server.job(submission.job_id), 0)
    return _follow(arguments, server, address, submission.job_id, config.run.name)


def run_without_config(arguments: argparse.Namespace, site: Path | None) -> int:
    """List, follow, stop or remove existing jobs. site: the path of the site file, if there is one."""
    from medray.config.loading.load import load_site
    from medray.launch.job.server import address_of

    if not _asks_for_existing(arguments):
        raise InputError(
            "the command needs a config to launch, but none is given",
            key="--config",
            fix="give a config, or use --list, --attach RUN, --stop RUN or --remove-old",
        )
    configured = load_site(site).launch.job.address if site else None
    return _existing(arguments, address_of(arguments.address, configured, os.environ))


def _asks_for_existing(arguments: argparse.Namespace) -> bool:
    return bool(arguments.list or arguments.attach or arguments.stop or arguments.remove_old)


def _check_words(arguments: argparse.Namespace) -> None:
    """Check the arguments after `--` with the parser of the command that will receive them, before the job is submitted."""
    from medray.cli.main import parser

    if arguments.exclude and not arguments.with_data:
        raise InputError(
            "only the config is sent, so there is nothing to exclude",
            key="--exclude",
            fix="add --with-data, or remove --exclude",
        )
    parsed = parser().parse_args([*arguments.verb.split(), "config.yaml", *arguments.passed])
    for word in parsed.overrides:
        raise InputError(
            "this word sets a key of the config, but such words must come before --, where medray checks them",
            key=f"-- {word}"[:80],
            fix=f"use medray launch job CONFIG {word.partition('=')[0][:80]}=... -- OPTIONS, with the options of medray "
            f"{arguments.verb} after --",
        )


def _prepared(
    arguments: argparse.Namespace,
    config: Config,
    address: Address,
    folder: Path,
    hosts: frozenset[str] = frozenset(),
) -> Submission:
    from medray.cli.launch import check_for
    from medray.config import read
    from medray.launch.job import is_here, prepare

    if is_here(address, hosts):
        check_for(arguments.verb, config, data=True)
    submission = prepare(
        config,
        address,
        folder,
        verb=arguments.verb,
        words=arguments.passed,
        hosts=hosts,
        with_data=arguments.with_data,
        exclude=arguments.exclude or (),
    )
    sent = read(submission.package.folder / "config.yaml")  # the file that the cluster will read
    check_for(arguments.verb, sent)
    return submission


def _submitted(
    arguments: argparse.Namespace, config: Config, address: Address, folder: Path
) -> tuple[JobServer, Submission]:
    from medray.launch import job
    from medray.launch.job.server import JobServer

    server = JobServer(address)
    submission = _prepared(arguments, config, address, folder, server.hosts())
    if note := job.check_versions(config, *server.versions()):
        _say(note)
    job.refuse_second(server.jobs(), config)
    for name, why in submission.withheld.items():
        _say(
            f"{name} was not sent ({why}); if the run needs it, set it in the environment of the cluster's nodes"
        )
    job.submit(server, submission)
    _say(f"job {submission.job_id}: {submission.entrypoint} ({submission.package.bytes / 1e6:.1f} MB sent)")
    return server, submission


def _dry_run(arguments: argparse.Namespace, submission: Submission, address: Address) -> int:
    package = submission.package
    if arguments.json:
        print(
            json.dumps(
                {
                    "address": submission.address,
                    "job": submission.job_id,
                    "entrypoint": submission.entrypoint,
                    "environment": submission.variables,
                    "withheld": submission.withheld,
                    "metadata": submission.metadata,
                    "files": package.sizes,
                    "config": package.config,
                }
            )
        )
        return 0
    own = [size for name, size in package.sizes.items() if name.startswith("medray/")]
    lines = [
        f"job server   {submission.address}",
        f"job          {submission.job_id}",
        f"entrypoint   {submission.entrypoint}",
        f"package      {len(package.sizes)} files, {package.bytes:,} bytes before compression",
        *(f"  {size:>12,} {name}" for name, size in package.sizes.items() if not name.startswith("medray/")),
        *([f"  {sum(own):>12,} medray/, {len(own)} files"] if own else []),
        "environment",
        *(f"  {name}={value}" for name, value in submission.variables.items()),
        *(f"  {name} is not sent: {why}" for name, why in submission.withheld.items()),
        "metadata",
        *(f"  {name}: {value}" for name, value in submission.metadata.items()),
        "config.yaml",
        *(f"  {line}" for line in package.config.splitlines()),
    ]
    if address.loopback:
        lines.append(
            "paths were checked as if the cluster ran on this machine; if its address is a forwarded port, the launch itself checks them again"
        )
    print("\n".join(lines))
    return 0


def _existing(arguments: argparse.Namespace, address: Address) -> int:
    from medray.launch.job import find
    from medray.launch.job.server import JobServer

    if arguments.dry_run:
        raise InputError(
            "--dry-run works only with a config to launch",
            key="--dry-run",
            fix="remove --dry-run, or give a config without --list, --attach, --stop and --remove-old",
        )
    server = JobServer(address)
    if arguments.attach:
        job = find(server.jobs(), arguments.attach, "--attach")
        return _follow(arguments, server, address, job.id, job.run)
    if arguments.stop:
        return _stop(arguments, server, address)
    if arguments.remove_old:
        return _remove_old(arguments, server)
    jobs = server.jobs()
    if arguments.json:
        print(json.dumps({"address": address.url, "jobs": [_object(job) for job in jobs]}))
    else:
        print("\n".join(_table(jobs)) if jobs else f"{address.url} has no jobs of medray")
    return 0


def _follow(
    arguments: argparse.Namespace, server: JobServer, address: Address, job_id: str, run_name: str
) -> int:
    from medray.launch.job.follow import Follower, exit_code, explained

    follower = Follower(server, job_id, show=_show, say=_say)
    try:
        job = follower.until_ended()
    except KeyboardInterrupt:
        _say(
            f"the job continues. To follow it again: {_command(address, '--attach', run_name)}; "
            f"to let it save and end: {_command(address, '--stop', run_name)}"
        )
        return 130
    if job.exit_code is None and job.status == "FAILED":  # otherwise the log contains the error
        _show("\n".join(job.message.splitlines()[-20:])[-4000:] + "\n")
    code = exit_code(job)
    _say(f"job {job.id}: {job.status}, exit code {code}: {explained(job)}")
    return _ended(arguments, job, code)


def _stop(arguments: argparse.Namespace, server: JobServer, address: Address) -> int:
    from medray.launch.job import find

    job = find(server.jobs(), arguments.stop, "--stop")
    if job.active:
        server.stop(job.id)
        _say(f"asked job {job.id} to save and end")
        if not arguments.no_follow:
            job = _until_stopped(server, job, address)
    else:
        _say(f"job {job.id} has ended already: {job.status}")
    return _ended(arguments, job, 0)


def _until_stopped(server: JobServer, job: Job, address: Address) -> Job:
    from medray.launch.job.follow import Follower

    def unseen(text: str) -> None:
        """Drop the text: only --attach shows the log."""

    try:
        job = Follower(server, job.id, show=unseen, say=_say).until_ended()
    except KeyboardInterrupt:
        _say(f"the run is still saving. To see its state: {_command(address, '--list')}")
        raise
    _say(f"job {job.id}: {job.status}")
    return job


def _remove_old(arguments: argparse.Namespace, server: JobServer) -> int:
    removed = []
    for job in server.jobs():
        if not job.active:
            try:
                server.remove(job.id)
            except (
                RunFailedError
            ) as error:  # another process removed it, or the server cannot write its record
                _say(f"{job.id} was not removed: {error}")
                continue
            removed.append(job.id)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    else:
        print("\n".join([*removed, f"{len(removed)} removed; the files of the runs stay in their storage"]))
    return 0


def _ended(arguments: argparse.Namespace, job: Job, code: int) -> int:
    if arguments.json:
        print(json.dumps({**_object(job), "exit_code": code}))
    return code


def _object(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "run": job.run,
        "storage": job.storage,
        "verb": job.verb,
        "status": job.status,
        "driver_exit_code": job.exit_code,
        "started": job.started,
        "ended": job.ended,
    }


def _table(jobs: list[Job]) -> list[str]:
    rows = [("STARTED", "STATUS", "CODE", "RUN", "STORAGE", "JOB")]
    for job in jobs:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-"
        code = "-" if job.exit_code is None else str(job.exit_code)
        rows.append((started, job.status, code, job.run, job.storage, job.id))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(_plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _command(address: Address, option: str, *words: str) -> str:
    return " ".join(["medray launch job", option, *words, "--address", address.url])


def _say(text: str) -> None:
    print(f"medray: {_plain(text)}", file=sys.stderr)


def _show(text: str) -> None:
    sys.stderr.write(_plain(text))
    sys.stderr.flush()


def _plain(text: str) -> str:
    """Return text of the cluster with "?" for characters that a terminal obeys."""
    return "".join(each if each.isprintable() or each in "\n\r\t" else "?" for each in text)
