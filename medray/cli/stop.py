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
        description="Asks a run to save after its step and to end with exit code 76, by a file `stop` in its folder. "
        "Launchers do not start it again; the next `medray train` goes on from there.",
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
        print(f"medray: {folder} is done: there is nothing to stop", file=sys.stderr)
        return 0
    storage.make_private(folder)
    stop.ask(folder)
    holder = lock.holder(folder)
    running = (
        f"the run{holder} saves after the step that it computes, and ends with 76"
        if holder is not None
        else "no start has the run now: one that waits in a queue ends with 76 as soon as it begins"
    )
    print(f"medray: {running}. `medray status {folder}` shows it", file=sys.stderr)
    return 0
