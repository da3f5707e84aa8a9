"""The verb `medray data inspect`: show what the model will see."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TextIO

from medray.cli.cluster import cluster_address
from medray.cli.outputs import add_force, check_new, whole_file
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config
    from medray.data.inspect.decoded import Sample
    from medray.data.shards.token_split import TokenSet


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "inspect",
        help="show what the model will see: samples with their loss mask, lengths, padding, checks",
        description="Show what the model will see of a config's data, and what is wrong with the data. Only the samples and "
        "the names of classes contain text of records.",
    )
    verb.add_argument("config", help="YAML file")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument("--rows", type=int, default=3, help="number of rows to show token by token (3)")
    verb.add_argument("--split", choices=("train", "validation"), help="split of the shown rows (train)")
    verb.add_argument("--id", help="show the row with this id")
    verb.add_argument("--no-text", action="store_true", help="do not show text of records")
    verb.add_argument(
        "--near-duplicates", action="store_true", help="look for inputs that are almost the same"
    )
    verb.add_argument(
        "--threshold", type=float, default=0.8, help="lowest similarity of near duplicates (0.8)"
    )
    verb.add_argument("--html", metavar="FILE", help="write the inspection to one HTML file as well")
    add_force(verb, "an HTML file")
    verb.add_argument("--strict", action="store_true", help="exit with 1 if a check found a problem")
    verb.add_argument(
        "--json", action="store_true", help="print all numbers as one JSON object, without text"
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from medray.config import read
    from medray.train import check

    config = read(arguments.config, arguments.overrides)
    address = cluster_address(config)
    check(config, elsewhere=address is not None, model=False)
    sets = _token_sets(config, address)

    from medray.data.inspect.inspection import inspect
    from medray.data.inspect.near_duplicates import near_duplicates
    from medray.data.tokenizer_file import tokenizer_of
    from medray.report.inspection_page import inspection_page
    from medray.report.inspection_text import Look, inspection_text

    found = inspect(config, sets, seed=config.run.seed)
    tokenizer = tokenizer_of(sets["train"])
    if arguments.near_duplicates:
        near = near_duplicates(sets, tokenizer, threshold=arguments.threshold)
        found = replace(found, near_duplicates=near)
    facts = found.to_json()
    shown: dict[str, Any] = {
        "names": {} if arguments.no_text else {one.split: one.names for one in found.classes},
        "samples": [asdict(sample) for sample in _samples(arguments, config, sets, tokenizer)],
    }
    stream = sys.stderr if arguments.json else sys.stdout
    look = Look(colour=_coloured(stream), blocks="utf" in (stream.encoding or "").lower())
    text = inspection_text(config.run.name, facts, look=look, **shown)
    stream.write(text.encode(stream.encoding or "utf-8", "replace").decode(stream.encoding or "utf-8"))
    if arguments.html:
        with whole_file(arguments.html, "--html") as page:
            page.write(inspection_page(config.run.name, facts, **shown))
    if arguments.json:
        print(json.dumps(facts))
    return 1 if arguments.strict and found.problems else 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.html:
        check_new(arguments.html, "--html", force=arguments.force)
    if arguments.rows < 0:
        raise InputError(
            "the number of rows must not be negative", key="--rows", value=arguments.rows, fix="use --rows 3"
        )
    if not 0 < arguments.threshold <= 1:
        raise InputError(
            "the similarity must be greater than 0 and at most 1",
            key="--threshold",
            value=arguments.threshold,
            fix="use --threshold 0.8",
        )
    if arguments.id is not None and arguments.no_text:
        raise InputError(
            "--id shows text of a record, but --no-text forbids it",
            key="--id",
            fix="remove one of the two options",
        )


def _token_sets(config: Config, address: str | None) -> dict[str, TokenSet]:
    """Return the finished shards of every split. Shards that are missing are written now; training reuses them."""
    from medray.cli.cluster import before_import, connect, disconnect
    from medray.report.console import Console

    before_import(address)

    from medray.data.shards.preparation import ready
    from medray.plan.model_config import describe

    model = describe(config.model, config.data.vocab_size)
    found = ready(config, model.architecture, model.folder)
    if found is not None:
        return found

    from medray.cli.data.prepare import ConsoleWatch
    from medray.train.driver import data_phase

    try:
        connect(address)
        return data_phase.prepare(config, model, ConsoleWatch(Console(sys.stderr))).sets
    finally:
        disconnect()


def _samples(
    arguments: argparse.Namespace, config: Config, sets: Mapping[str, TokenSet], tokenizer: Any
) -> list[Sample]:
    from medray.data.inspect.decoded import drawn_rows, find_row, samples

    if arguments.no_text:
        return []
    if arguments.split is not None and arguments.split not in sets:
        raise InputError(
            "the config has no data for this split",
            key="--split",
            value=arguments.split,
            fix="set data.validation, data.split.validation or data.split.validation_ids",
        )
    if arguments.id is None:
        split = arguments.split or "train"
        return samples(
            sets[split], split, tokenizer, drawn_rows(sets[split], arguments.rows, config.run.seed)
        )
    for split in [arguments.split] if arguments.split else sets:
        row = find_row(sets[split], arguments.id)
        if row is not None:
            return samples(sets[split], split, tokenizer, [row])
    raise InputError(
        f"no row of {arguments.split or ' or '.join(sets)} has this id",
        key="--id",
        value=arguments.id,
        fix="use a value of data.columns.id, or file:row (rows count from 1) for a file without ids",
    )


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
