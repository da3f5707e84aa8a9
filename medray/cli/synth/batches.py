"""The verbs `medray synth submit`, `status` and `fetch`: the steps of `chat` over the batch interface of a server."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from medray.cli.synth.chat import continued, exit_code
from medray.cli.synth.prompts import add_config


def add_to(actions: Any) -> None:
    submit = actions.add_parser(
        "submit",
        help="send everything that is open now as batches, and return",
        description="Send the open requests of questions or of the next turn to the batch interface of backend, and return at "
        "once. What is on its way already is not sent again.",
    )
    status = actions.add_parser(
        "status",
        help="show the progress of the batches",
        description="Show the progress of the batches whose answers were not fetched yet.",
    )
    fetch = actions.add_parser(
        "fetch",
        help="record the answers of batches that are over",
        description="Record the answers of batches that are over. Run medray synth submit afterwards for the next turn and for "
        "what must be asked again.",
    )
    for verb, code in ((submit, run_submit), (status, run_status), (fetch, run_fetch)):
        add_config(verb)
        verb.add_argument("--json", action="store_true", help="print the result as one JSON object")
        verb.set_defaults(run=code)


def run_submit(arguments: argparse.Namespace) -> int:
    return _run(arguments, "submit")


def run_fetch(arguments: argparse.Namespace) -> int:
    return _run(arguments, "fetch")


def run_status(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from medray.report.console import Console
    from medray.synth import settings
    from medray.synth.chat.run import batch_status

    config = settings.read(arguments.config, arguments.overrides)
    found = batch_status(config)
    rows: list[tuple[str, ...]] = [
        (
            f"batch {each.number}",
            each.status,
            f"{each.completed:,} of {each.requests:,} answered",
            f"{each.failed:,} failed",
        )
        for each in found
    ]
    Console(sys.stderr).table(f"{len(found)} batches on their way", rows)
    if arguments.json:
        print(json.dumps({"batches": [asdict(each) for each in found]}))
    return 0


def _run(arguments: argparse.Namespace, mode: str) -> int:
    from medray.synth import settings

    config = settings.read(arguments.config, arguments.overrides)
    summary = continued(config, mode=mode)
    if arguments.json:
        print(json.dumps({**summary.to_json(), "folder": str(settings.folder_of(config))}))
    return exit_code(summary)
