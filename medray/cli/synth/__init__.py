"""The verb `medray synth`: synthetic instruction and dialogue data."""

from __future__ import annotations

from typing import Any

from medray.cli.synth import batches, chat, clean, inspect, prompts, run


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "synth",
        help="make synthetic instruction and dialogue data: prompts, chat, clean, run, inspect",
        description="Make synthetic instruction and dialogue data.",
    )
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in (prompts, chat, clean, run, batches, inspect):
        action.add_to(actions)
