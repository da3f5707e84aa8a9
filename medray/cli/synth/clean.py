"""The verb `medray synth clean`: finished chats to training data."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from medray.cli.synth.prompts import add_config

if TYPE_CHECKING:
    from medray.config.synth import SynthConfig
    from medray.synth.clean.run import CleanSummary


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "clean",
        help="turn finished chats into training data, with filters, splits and a datasheet",
        description="Turn finished chats into training data in the folder clean/ of the synthesis: rows of messages, which "
        "medray train reads, the published form, preference pairs, a side table and a datasheet. Everything that is left out is "
        "counted by reason.",
    )
    add_config(verb)
    verb.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.synth import settings
    from medray.synth.clean.run import FOLDER

    config = settings.read(arguments.config, arguments.overrides)
    summary = cleaned(config)
    if arguments.json:
        print(json.dumps({**summary.to_json(), "folder": str(settings.folder_of(config) / FOLDER)}))
    return 0


def cleaned(config: SynthConfig) -> CleanSummary:
    """Write the training data, with its counts on the console."""
    from medray.report.console import Console
    from medray.synth import settings
    from medray.synth.clean.run import FOLDER, clean

    summary = clean(config)
    rows: list[tuple[str, ...]] = [("chats", f"{summary.chats:,}"), ("kept", f"{summary.kept:,}")]
    rows += [(f"left out: {reason}", f"{count:,}") for reason, count in summary.dropped.items()]
    rows += [(file, f"{count:,}") for file, count in summary.rows.items()]
    Console(sys.stderr).table(f"training data, written to {settings.folder_of(config) / FOLDER}", rows)
    return summary
