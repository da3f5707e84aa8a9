"""The verb `medray data`: work on corpora without training."""

from __future__ import annotations

from typing import Any

from medray.cli.data import annotate, corpora, inspect, pairs, prepare, simulate


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "data",
        help="work on corpora without training: inspect, prepare, import, simulate, pairs, annotate",
        description="Work on corpora without training.",
    )
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in (inspect, prepare, corpora, simulate, pairs, annotate):
        action.add_to(actions)
