"""The verb `medray doctor`: check a machine or a cluster and say how to fix what is wrong."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

from medray.errors import InputError, printable

if TYPE_CHECKING:
    from medray.config import Config
    from medray.launch.doctor.finding import Finding, Question

NOT_ASKED = {"storage": "run.storage", "models": "the model", "tracking": "MLflow"}
NODES_SHOWN = 4  # node names in a line that several nodes share
ORDER = (
    *("cluster", "node", "same versions", "clock", "network", "python", "packages", "ray auth", "gpu"),
    *("shared memory", "memory", "disk", "open files", "ports", "storage", "model", "MLflow"),
)


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "doctor",
        help="check this machine or a cluster: versions, GPUs, storage, network, MLflow, the model",
        description="Check what a run needs, on this machine or on every node of a Ray cluster, and say how to fix what is "
        "wrong. Exit code 0: no check failed; 1: a check failed.",
    )
    verb.add_argument(
        "config", nargs="?", help="YAML file whose storage, model, MLflow and cluster are checked"
    )
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to check, node by node; default: cluster.address, else RAY_ADDRESS, else this machine only; "
        "local: this machine, even if cluster.address or RAY_ADDRESS is set",
    )
    verb.add_argument("--storage", metavar="PATH_OR_URL", help="check this storage instead of run.storage")
    verb.add_argument("--json", action="store_true", help="print one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    question = _question(arguments)
    from medray.launch.doctor.examination import examined, worst

    where = "this machine" if question.address is None else "every node of the cluster"
    print(f"medray: checking {where}", file=sys.stderr)
    findings = examined(question)
    to = sys.stderr if arguments.json else sys.stdout
    _show(findings, to)
    if missing := [what for key, what in NOT_ASKED.items() if getattr(question, key) in (None, ())]:
        print(f"not checked: {', '.join(missing)} (give a config that sets them)", file=to)
    if arguments.json:
        print(json.dumps({"state": worst(findings), "findings": [one.as_json() for one in findings]}))
    return 1 if worst(findings) == "fail" else 0


def _question(arguments: argparse.Namespace) -> Question:
    """Read what to check from the arguments. Raises InputError for an invalid config, address or storage."""
    from medray.launch.doctor.finding import Question

    storage = _storage(arguments.storage) if arguments.storage else None
    models: tuple[str, ...] = ()
    tracking = address = None
    if arguments.config:
        from medray.config import read

        config = read(arguments.config, arguments.overrides)
        storage, address = storage or config.run.storage, config.cluster.address
        names = (config.model.name if config.model.init == "pretrained" else None, config.model.adapter)
        models = tuple(name for name in names if name)
        tracking = _tracking(config, storage)
    return Question(
        address=_address(arguments.address or address or os.environ.get("RAY_ADDRESS"), arguments.address),
        storage=storage,
        models=models,
        tracking=tracking,
    )


def _tracking(config: Config, storage: str) -> str | None:
    """Return the MLflow URI that a run of this config logs to; "" for the environment's, None if it logs to none."""
    from medray.config.tracking import TRACKING_URI

    if not config.tracking.enabled:
        return None
    if config.tracking.uri or os.environ.get(TRACKING_URI):
        return config.tracking.uri or ""
    return None if "://" in storage else f"sqlite:///{storage}/mlflow.db"


def _address(address: str | None, given: str | None) -> str | None:
    if address in (None, "", "local"):
        return None
    if address == "auto" or re.fullmatch(r"[^\s/@]+:\d{1,5}", address):
        return address
    raise InputError(
        "this is not the address of a Ray head",
        key="--address" if given else "RAY_ADDRESS or cluster.address",
        value=given,
        fix="use HOST:PORT of the head, as `ray start --head` prints it, not the address of the dashboard (http://…) or of "
        "Ray Client (ray://…)",
    )


def _storage(given: str) -> str:
    from medray.config.loading.credentials import has_credentials

    if has_credentials(given):
        raise InputError(
            "the URL contains a user name or a password",
            key="--storage",
            fix="use --storage=s3://bucket/prefix, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        )
    if re.fullmatch(r"s3a?://[a-z0-9][a-z0-9.-]+(/.*)?", given):
        return given
    if "://" in given:
        raise InputError(
            "this is neither a folder nor an S3 bucket",
            key="--storage",
            value=given,
            fix="use --storage=/a/folder or --storage=s3://bucket/prefix",
        )
    return os.path.abspath(os.path.expanduser(given))


def _show(findings: list[Finding], to: TextIO) -> None:
    """Print the findings. Equal findings of several nodes are printed once, with the names of the nodes."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for one in findings:
        groups.setdefault((one.name, one.state, one.detail, one.fix), []).append(one.node)
    for (name, state, detail, fix), nodes in sorted(groups.items(), key=lambda item: _rank(item[0][0])):
        named = sorted({node for node in nodes if node})
        more = f" and {len(named) - NODES_SHOWN} more" if len(named) > NODES_SHOWN else ""
        where = f"  [{', '.join(named[:NODES_SHOWN])}{more}]" if named else ""
        print(printable(f"{state:<5} {name:<14} {detail}{where}"), file=to)
        if fix:
            print(printable(f"{'':<20} Fix: {fix}"), file=to)
    states = [one.state for one in findings]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("ok", "warn", "fail"))
    print(counts, file=to)


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)
