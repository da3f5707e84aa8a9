"""The verb `medray logs`: print the console of a run from its folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from medray.cli.run_argument import add_run, folder_of_run
from medray.errors import InputError, printable

FOLDER_SECONDS, BUCKET_SECONDS = 1.0, 5.0  # interval between two reads of the log


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "logs",
        help="print the console of a run, wherever it runs",
        description="Print the console of a run, or of `medray predict`. The text is read from the folder.",
    )
    add_run(verb)
    verb.add_argument("-f", "--follow", action="store_true", help="print new lines until the run ends")
    verb.add_argument("--lines", type=int, default=0, metavar="N", help="print only the newest N lines")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.train.run_folder import lock
    from medray.train.run_folder.state import log_text

    if arguments.lines < 0:
        raise InputError(
            "the number of lines must be 0 or more",
            key="--lines",
            value=arguments.lines,
            fix="use --lines 100",
        )
    folder = folder_of_run(arguments, logged=True)
    shown: list[str] = []
    first = True
    while True:
        running = (
            lock.holder(folder) is not None
        )  # asked before reading the text, so that no last line is missed
        lines = log_text(folder).splitlines()
        new = lines[_shared(shown, lines) :]
        if first and not lines:
            print(
                f"medray: {folder} has no console.log yet; try again when the run has started",
                file=sys.stderr,
            )
        for line in new[-arguments.lines :] if first else new:
            print(printable(line), flush=True)
        shown, first = lines, False
        if not (arguments.follow and running):
            return 0
        time.sleep(FOLDER_SECONDS if isinstance(folder, Path) else BUCKET_SECONDS)


def _shared(shown: list[str], lines: list[str]) -> int:
    """Return how many of `lines` were shown before. A log that was restarted has lost its oldest lines."""
    if not shown or not lines:
        return 0
    if lines[: len(shown)] == shown:
        return len(shown)
    for index in range(len(lines) - 1, -1, -1):
        if lines[index] == shown[-1]:
            return index + 1
    return 0
