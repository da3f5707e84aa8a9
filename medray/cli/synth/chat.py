"""The verb `medray synth chat`: opening questions and chats, from a server or through files."""

from __future__ import annotations

import argparse
import glob
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.cli.synth.prompts import add_config
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.backends.price import Estimate
    from medray.config.synth import SynthConfig
    from medray.synth.asking.ask import Outcome
    from medray.synth.chat.run import Summary

STEPS = ("q", "1c", "2u", "2c", "3u", "3c")


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "chat",
        help="ask for opening questions and chats, resumable at any moment",
        description="Ask for opening questions, draw the situation of each chat, and ask for its turns. With a backend, its "
        "server is asked. Without one, requests are written to files; answer them elsewhere and pass the answers with "
        "--replies. Run it again to continue: no reply is asked for twice.",
    )
    add_config(verb)
    verb.add_argument(
        "--replies",
        action="append",
        metavar="FILE",
        help="file of replies, or a pattern such as 'out/*.jsonl'; may be repeated",
    )
    verb.add_argument(
        "--step",
        choices=STEPS,
        help="step of custom ids that medray did not write, such as 2u; default: from the name of the file",
    )
    verb.add_argument(
        "--until",
        choices=("questions", "chats"),
        default="chats",
        help="stop after the opening questions, to look at them before you pay for chats (chats)",
    )
    verb.add_argument(
        "--estimate", action="store_true", help="show what is left and its cost, and ask for nothing"
    )
    verb.add_argument("--show", type=int, default=0, metavar="N", help="print the first N finished chats (0)")
    verb.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.synth import settings
    from medray.synth.chat.run import CHATS

    config = settings.read(arguments.config, arguments.overrides)
    files = [Path(file) for pattern in arguments.replies or () for file in _matching(pattern)]
    summary = continued(
        config,
        replies=files,
        step=arguments.step or _step_in_names(files),
        until=arguments.until,
        only_estimate=arguments.estimate,
    )
    folder = settings.folder_of(config)
    if arguments.show and isinstance(folder, Path) and (folder / CHATS).exists():
        _print_chats(folder / CHATS, arguments.show)
    if arguments.json:
        print(json.dumps({**summary.to_json(), "folder": str(folder)}))
    return exit_code(summary)


def continued(config: SynthConfig, **options: Any) -> Summary:
    """Continue a synthesis, with its progress and result on the console."""
    from medray.report.console import Console
    from medray.synth import settings
    from medray.synth.chat.run import Watch, chat

    console = Console(sys.stderr)

    def say(text: str) -> None:
        console.phase("synth", text)

    def progress(what: str, outcome: Outcome) -> None:
        if (outcome.accepted + outcome.rejected.total()) % 100 == 0:
            say(f"{what}: {outcome.accepted:,} replies accepted, {outcome.rejected.total():,} rejected")

    def estimated(what: str, found: Estimate) -> None:
        say(
            f"{what}: about {found.requests:,} requests, {found.prompt_tokens:,} tokens of prompts and "
            f"{found.completion_tokens:,} of replies, cost {found.cost:,.2f}, at most {found.most_cost:,.2f}"
        )

    if config.backend is not None and config.backend.type == "local":
        from medray.evaluate.local_backend import local_backend

        options["local"] = local_backend
    summary = chat(config, watch=Watch(say=say, estimated=estimated, progress=progress), **options)
    console.table(f"{_headline(summary)}, in {settings.folder_of(config)}", _table(summary))
    return summary


def exit_code(summary: Summary) -> int:
    return 1 if summary.status == "budget" else 0


def _headline(summary: Summary) -> str:
    return {
        "done": f"{summary.stage} are done",
        "waiting": f"{len(summary.files)} request file{'s' if len(summary.files) != 1 else ''} to answer",
        "submitted": "batches are on their way; run medray synth fetch later, then submit again for the next turn",
        "budget": "stopped before the budget is exceeded",
        "estimate": f"nothing was asked for; {summary.stage} are not done",
        "open": "some requests got no reply; run the command again",
    }[summary.status]


def _table(summary: Summary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("replies accepted now", f"{summary.accepted:,}")]
    rows += [("requests submitted now", f"{summary.submitted:,}")] if summary.submitted else []
    rows += [("opening questions", f"{summary.questions:,}")] if summary.questions else []
    if summary.chats:
        rows += [("chats", f"{summary.chats:,}"), ("finished chats", f"{summary.finished:,}")]
    rows += [(f"dropped: {reason}", f"{count:,}") for reason, count in sorted(summary.dropped.items())]
    rows += [(f"rejected replies: {reason}", f"{count:,}") for reason, count in summary.rejected.items()]
    rows += [(f"no reply: {kind}", f"{count:,}") for kind, count in sorted(summary.failures.items())]
    rows += [("cost so far", f"{summary.cost:,.4f}")] if summary.cost else []
    if summary.uncertain_cost:
        rows += [("lost replies may have cost, at most", f"{summary.uncertain_cost:,.4f}")]
    return rows + [("answer", file) for file in summary.files]


def _matching(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern)) or ([pattern] if not glob.has_magic(pattern) else [])
    if not found:
        raise InputError("no file matches", key="--replies", value=pattern, fix="check the pattern")
    return found


def _step_in_names(files: list[Path]) -> str | None:
    """Return the step that the names of published files contain: …_turn_2u.jsonl."""
    found = {match[1] for file in files if (match := re.search(r"_turn_([123][uc])\b", file.stem))}
    return found.pop() if len(found) == 1 else None


def _print_chats(file: Path, count: int) -> None:
    with file.open(encoding="utf-8") as stream:
        for _, line in zip(range(count), stream, strict=False):
            row = json.loads(line)
            print(f"== {row['id']}")
            for turn in row["conversation"]:
                print(f"{turn['role']}: {turn['value']}\n")
