"""The verb `medray judge`: two judges decide on answers, and people decide where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medray.cli.judge import review, run

ACTIONS = ("run", "review")


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "judge",
        help="let two judges decide on answers, and people where they differ",
        description="Let two judges decide independently on the answers of a model (DMCR). Equal verdicts are final; the others "
        "go to a queue for people. `medray judge CONFIG` is short for `medray judge run CONFIG`.",
    )
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in (run, review):
        action.add_to(actions)
    plain = verb.parse_known_args

    def with_action(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments; without an action, the first one is the config of `run`."""
        words = list(args or ())
        if words and words[0] not in (*ACTIONS, "-h", "--help"):
            words.insert(0, "run")
        return plain(words, namespace)

    vars(verb)["parse_known_args"] = with_action
