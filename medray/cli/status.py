"""The verb `medray status`: say what a run is doing, as its folder shows it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

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

    folder = folder_of_run(arguments)
    state = read(folder)
    if arguments.json:
        print(json.dumps(_finite(state.as_dict())))
        return 0
    last = log_text(folder).rstrip().rpartition("\n")[2].strip()
    rows = [*state.rows(), ("console", last)] if last else state.rows()
    Console(sys.stdout).table("run", [(name, printable(text)) for name, text in rows])
    return 0


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
