"""The verb `medray data`: work on corpora without training."""

from __future__ import annotations

from typing import Any

from medray.cli.data import corpora, inspect, pairs, prepare, simulate


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "data",
        help="work on corpora without training: inspect, prepare, import, simulate, pairs",
        description="Work on corpora without training.",
    )
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in (inspect, prepare, corpora, simulate, pairs):
        action.add_to(actions)
