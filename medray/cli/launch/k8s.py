"""The verb `medray launch k8s`: run a config as a RayJob on Kubernetes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config
    from medray.launch.k8s import Launch


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `medray launch k8s` has."""
    parser.add_argument("--no-follow", action="store_true", help="start the job and return")
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete the Kubernetes objects of this run from the namespace; its storage stays",
    )
    parser.add_argument(
        "--context", metavar="NAME", help="context of the kubeconfig; default: its current one"
    )
    parser.add_argument(
        "--with-data",
        action="store_true",
        help="not supported: data is too large for a ConfigMap; use a volume claim or a bucket",
    )


def run(arguments: argparse.Namespace, config: Config) -> int:
    from medray.launch.environment import allowed
    from medray.launch.k8s import render

    _check_words(arguments)
    environment = allowed(config.launch.env, os.environ)
    launch = render(
        config,
        environment,
        verb=arguments.verb,
        launched_at=int(time.time()),
    )
    for note in () if arguments.delete else launch.notes:
        _say(note)
    if arguments.dry_run:
        return _dry_run(arguments, config, launch)

    from medray.launch.k8s.client import Cluster
    from medray.launch.k8s.needs import check_needs

    cluster = Cluster(launch.namespace, arguments.context)
    if arguments.delete:
        deleted = cluster.delete(launch.name, _say)
        _say(
            f"deleted from the namespace {launch.namespace}: {', '.join(deleted) or 'nothing, because it had no objects of this run'}"
        )
        return _result(arguments, launch, {"deleted": deleted})
    for note in check_needs(cluster, config.launch.k8s, environment.secret):
        _say(note)
    if cluster.start(launch):
        _say(f"started the RayJob {launch.name} in {launch.namespace}; worker pods: {launch.nodes}")
    else:
        _say(f"the RayJob {launch.name} in {launch.namespace} runs this config already")
    if arguments.no_follow:
        _say("to follow it, run this command again without --no-follow; to end it, with --delete")
        return _result(arguments, launch, {})
    return _follow(arguments, config, cluster, launch)


def _check_words(arguments: argparse.Namespace) -> None:
    if arguments.with_data:
        raise InputError(
            "data cannot be sent to Kubernetes: a ConfigMap holds at most 1 MiB",
            key="--with-data",
            fix="copy the data to a bucket or to the volume of launch.k8s.volume_claim, and set data.train to its path there",
        )
    if getattr(arguments, "passed", None):
        raise InputError(
            f"words after -- are options of sbatch, which Kubernetes does not use: {' '.join(arguments.passed)[:200]}",
            key="--",
            fix="remove them, and set the options of the RayJob by the keys of launch.k8s",
        )
    if arguments.dry_run and arguments.delete:
        raise InputError(
            "--delete cannot be combined with --dry-run",
            key="--delete",
            fix="run `kubectl get all -l medray/run=NAME` to see the objects of the run",
        )


def _dry_run(arguments: argparse.Namespace, config: Config, launch: Launch) -> int:
    from medray.launch.k8s.names import RULE

    _say(f"run.name {config.run.name} becomes {launch.name} in Kubernetes: {RULE}")
    _say(f"built from k8s/base and k8s/overlays: {', '.join(launch.overlays)}")
    if arguments.json:
        return _result(arguments, launch, {"overlays": launch.overlays, "manifests": launch.manifests})
    print(launch.text(), end="")
    return 0


def _follow(arguments: argparse.Namespace, config: Config, cluster: Any, launch: Launch) -> int:
    from medray.launch.k8s.client import outcome_code

    settings = config.launch.k8s
    log = sys.stderr if arguments.json else sys.stdout
    # Each cluster may take its deadline; the job may wait in a queue for one more deadline.
    seconds = settings.deadline_seconds * (settings.retries + 2)
    try:
        status, driver = cluster.follow(
            launch.name,
            _say,
            lambda line: print(line, file=log, flush=True),
            retries=settings.retries,
            seconds=seconds,
        )
    except KeyboardInterrupt:
        _say(
            "stopped following; the job continues. To follow it again, run the same command; to end it, add --delete"
        )
        return 130
    code = outcome_code(status, driver)
    if code == 2:
        _say(
            "the config or the data of the run is wrong, so it was not retried. Fix: correct what its log says, and launch again"
        )
    elif status.job == "STOPPED":
        _say("the Ray job was stopped: its config or data is wrong (see its log), or somebody stopped it")
    elif code not in (0, 76):
        _say(
            f"the run failed, see its log: {status.message.strip() or status.reason or 'the RayJob has no message about it'}"
        )
    return _result(
        arguments,
        launch,
        {
            "job_status": status.job,
            "deployment_status": status.deployment,
            "reason": status.reason,
            "message": status.message,
            "clusters_failed": status.failed,
            "exit_code": code,
        },
        code,
    )


def _result(arguments: argparse.Namespace, launch: Launch, more: dict[str, Any], code: int = 0) -> int:
    if arguments.json:
        print(json.dumps({"name": launch.name, "namespace": launch.namespace, **more}))
    return code


def _say(text: str) -> None:
    from medray.errors import printable

    for line in text.splitlines()[:200]:
        print(f"medray: {printable(line)}", file=sys.stderr, flush=True)
