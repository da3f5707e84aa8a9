from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from medray.cli.run_argument import add_run, folder_of_run
from medray.errors import InputError, printable

FOLDER_SECONDS, BUCKET_SECONDS = 1.0, 5.0  # between two looks


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "logs",
        help="the console of a run, wherever it runs",
        description="Prints what the console of a run has said, from its folder.",
    )
    add_run(verb)
    verb.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    verb.add_argument("--lines", type=int, default=0, metavar="N", help="the newest N lines only")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.train.run_folder import lock
    from medray.train.run_folder.state import log_text

    if arguments.lines < 0:
        raise InputError("must be 0 or more", key="--lines", value=arguments.lines, fix="--lines 100")
    folder = folder_of_run(arguments)
    shown: list[str] = []
    first = True
    while True:
        running = lock.holder(folder) is not None  # before the text, which is then whole
        lines = log_text(folder).splitlines()
        new = lines[_shared(shown, lines) :]
        if first and not lines:
            print(f"medray: {folder} has no console.log yet", file=sys.stderr)
        for line in new[-arguments.lines :] if first else new:
            print(printable(line), flush=True)
        shown, first = lines, False
        if not (arguments.follow and running):
            return 0
        time.sleep(FOLDER_SECONDS if isinstance(folder, Path) else BUCKET_SECONDS)


def _shared(shown: list[str], lines: list[str]) -> int:
    """How many of `lines` were shown. A log that began anew has lost its oldest lines."""
    if not shown or not lines:
        return 0
    if lines[: len(shown)] == shown:
        return len(shown)
    for index in range(len(lines) - 1, -1, -1):
        if lines[index] == shown[-1]:
            return index + 1
    return 0
