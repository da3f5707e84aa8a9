"""The verb `medray stop`: ask a run to save and end."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from medray import storage
from medray.cli.run_argument import add_run, folder_of_run
from medray.errors import InputError


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "stop",
        help="ask a run to save and end, wherever it runs",
        description="Ask a run to save after its current step and to end with exit code 76, by writing a file `stop` to its "
        "folder. Launchers do not start the run again; the next `medray train` resumes it.",
    )
    add_run(verb)
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.train import stop
    from medray.train.run_folder import files, lock

    folder = folder_of_run(arguments, planned=True)
    try:
        summary = files.read_summary(folder) or {}
    except InputError:
        summary = {}
    if summary.get("status") == "done" and lock.holder(folder) is None:
        print(f"medray: {folder} is done; there is nothing to stop", file=sys.stderr)
        return 0
    storage.make_private(folder)
    stop.ask(folder)
    holder = lock.holder(folder)
    running = (
        f"the run{holder} saves after its current step and ends with exit code 76"
        if holder is not None
        else "the run is not running now; a start that waits in a queue ends with exit code 76 as soon as it begins"
    )
    print(f"medray: {running}. To see its state: medray status {folder}", file=sys.stderr)
    return 0
