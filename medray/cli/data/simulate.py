"""The verb `medray data simulate`: write consultations of the simulated clinic."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from medray.cli.outputs import add_force, check_new, whole_file
from medray.errors import InputError


def add_to(actions: Any) -> None:
    simulate = actions.add_parser(
        "simulate",
        help="write consultations of the simulated clinic as JSON lines",
        description="Write consultations of the simulated clinic as JSON lines. The columns have the names that data.columns "
        "expects by default: input is the dialogue, label the note, rationale the key facts of the note.",
    )
    simulate.add_argument("output", help="file to write; - for standard output")
    simulate.add_argument("--rows", type=int, default=1000, help="number of consultations (1000)")
    simulate.add_argument(
        "--size",
        choices=("small", "medium", "full"),
        default="small",
        help="length of a consultation (small)",
    )
    simulate.add_argument(
        "--split",
        choices=("train", "validation"),
        default="train",
        help="split to write; no treatment is in both (train)",
    )
    simulate.add_argument(
        "--seed", type=int, default=0, help="seed; row i depends only on the seed and i (0)"
    )
    add_force(simulate, "a file")
    simulate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.rows < 1:
        raise InputError(
            "the number of rows must be at least 1", key="--rows", value=arguments.rows, fix="use --rows 1000"
        )
    if arguments.seed < 0:
        raise InputError(
            "the seed must not be negative", key="--seed", value=arguments.seed, fix="use --seed 0"
        )
    if arguments.output != "-":
        check_new(arguments.output, None, force=arguments.force)
    from medray.clinic import consultations

    made = consultations.rows(arguments.seed, arguments.rows, split=arguments.split, size=arguments.size)
    rows = map(_as_record, made)
    if arguments.output == "-":
        for row in rows:
            print(json.dumps(row))
        return 0
    with whole_file(arguments.output, None) as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"wrote {arguments.rows} rows to {arguments.output}", file=sys.stderr)
    return 0


def _as_record(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns to train on. The wrong note is left out: with it the row would be a preference pair."""
    kept = {name: row[name] for name in ("id", "group", "lang")}
    kept |= {"input": row["dialogue"], "label": row["note"]}
    return kept | {name: row[name] for name in ("rationale", "entities", "relations")}
