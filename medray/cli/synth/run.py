"""The verb `medray synth run`: all steps, from lists to training data."""

from __future__ import annotations

import argparse
import json
from typing import Any

from medray.cli.synth.chat import continued, exit_code
from medray.cli.synth.clean import cleaned
from medray.cli.synth.prompts import add_config


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "run",
        help="all steps: questions, chats and training data",
        description="Ask for questions and chats, and turn the finished chats into training data. It needs a backend. Run it "
        "again to continue after a stop of any kind.",
    )
    add_config(verb)
    verb.add_argument("--json", action="store_true", help="print the results as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.errors import InputError
    from medray.synth import settings

    config = settings.read(arguments.config, arguments.overrides)
    if config.backend is None:
        raise InputError(
            "nobody can answer: the config has no backend",
            key="backend",
            fix="set backend, or use medray synth chat, which works with request files",
        )
    summary = continued(config)
    found: dict[str, Any] = {"chat": summary.to_json(), "folder": str(settings.folder_of(config))}
    if summary.status == "done":
        found["clean"] = cleaned(config).to_json()
    if arguments.json:
        print(json.dumps(found))
    return exit_code(summary)
