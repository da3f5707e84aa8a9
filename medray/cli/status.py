"""The verb `medray status`: say what a run is doing, as its folder shows it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from medray.cli.outputs import finite
from medray.cli.run_argument import add_run, folder_of_run
from medray.errors import printable


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "status",
        help="show what a run is doing, wherever it runs",
        description="Show what a run is doing. The state is read from the run's folder.",
    )
    add_run(verb)
    verb.add_argument("--json", action="store_true", help="print the state as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.report.console import Console
    from medray.train.run_folder.state import log_text, read
    from medray.tune.status import read as read_search

    folder = folder_of_run(arguments)
    state, search = read(folder), read_search(folder)
    if arguments.json:
        more = (
            {"trials": [trial.model_dump() for trial in search.trials], "best": search.best} if search else {}
        )
        print(json.dumps(finite(state.as_dict() | more)))
        return 0
    rows = state.rows()
    if search is not None:  # a search has trials, and no steps of its own
        *rows, where = [row for row in rows if row[0] not in ("step", "starts", "evaluation")]
        rows += [*search.rows(), where]
    last = log_text(folder).rstrip().rpartition("\n")[2].strip()
    rows += [("console", last)] if last else []
    Console(sys.stdout).table("search" if search else "run", [(name, printable(text)) for name, text in rows])
    return 0
