"""The verb `medray synth inspect`: counts of a file or folder of a synthesis."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from medray.errors import InputError


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "inspect",
        help="count what a file or folder of a synthesis contains",
        description="Count what a file of questions, situations, chats, requests or replies contains, published or written by "
        "medray, or the state in the folder of a synthesis. No text is shown.",
    )
    verb.add_argument("path", help="file, or the folder of a synthesis")
    verb.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.report.console import Console
    from medray.synth.inspection import inspect

    path = Path(arguments.path)
    if not path.exists():
        raise InputError("there is no such file", file=path, key="PATH", fix="check the path")
    found = inspect(path)
    rows: list[tuple[str, ...]] = [("rows", f"{found['rows']:,}")]
    rows += [("repeated ids", f"{found['repeated_ids']:,}")] if found["repeated_ids"] else []
    rows += [("cost", f"{found['cost']:,.4f}")] if found.get("cost") else []
    for name, counts in found["counts"].items():
        rows += [(f"{name}: {value}", f"{count:,}") for value, count in counts.items()]
    Console(sys.stderr).table(f"{path}: {found['kind']}", rows)
    if arguments.json:
        print(json.dumps(found))
    return 0
