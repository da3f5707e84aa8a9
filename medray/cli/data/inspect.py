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
        help="what the model will see: samples with their loss mask, lengths, padding, checks",
        description="Shows what the model will see of a config's data, and what is wrong with it. The samples show "
        "text of records; nothing else does but the names of classes.",
    )
    verb.add_argument("config", help="YAML file")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, later ones win")
    verb.add_argument("--rows", type=int, default=3, help="rows that are shown token by token (3)")
    verb.add_argument("--split", choices=("train", "validation"), help="of the rows that are shown (train)")
    verb.add_argument("--id", help="show the row with this id")
    verb.add_argument("--no-text", action="store_true", help="show no text of any record")
    verb.add_argument("--near-duplicates", action="store_true", help="look for inputs that are almost alike")
    verb.add_argument(
        "--threshold", type=float, default=0.8, help="similarity from which inputs are alike (0.8)"
    )
    verb.add_argument("--html", metavar="FILE", help="write the same as one HTML file")
    add_force(verb, "an HTML file")
    verb.add_argument("--strict", action="store_true", help="exit with 1 where a check found a problem")
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
        raise InputError("must not be negative", key="--rows", value=arguments.rows, fix="--rows 3")
    if not 0 < arguments.threshold <= 1:
        raise InputError(
            "must be above 0 and at most 1",
            key="--threshold",
            value=arguments.threshold,
            fix="--threshold 0.8",
        )
    if arguments.id is not None and arguments.no_text:
        raise InputError("shows text, and --no-text forbids it", key="--id", fix="leave one of them out")


def _token_sets(config: Config, address: str | None) -> dict[str, TokenSet]:
    """Finished shards of every split; written now where they are not there, and left for training."""
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
    from medray.train import data_phase

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
            "the config has no such split",
            key="--split",
            value=arguments.split,
            fix="name data.validation or set data.split.validation",
        )
    if arguments.id is None:
        split = arguments.split or "train"
        return samples(
            sets[split], split, tokenizer, drawn_rows(sets[split], arguments.rows, config.run.seed)
        )
    for split in [arguments.split] if arguments.split else sets:
        place = find_row(sets[split], arguments.id)
        if place is not None:
            return samples(sets[split], split, tokenizer, [place])
    raise InputError(
        f"no row of {arguments.split or ' or '.join(sets)} has this id",
        key="--id",
        value=arguments.id,
        fix="ids are those of data.columns.id, or file:row, counted from 1, where a file has none",
    )


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
