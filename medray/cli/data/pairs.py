from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from medray.cli.outputs import add_force, check_new, whole_file
from medray.errors import InputError
from medray.pairs.corruptions import CORRUPTIONS

STRATEGIES = tuple(CORRUPTIONS)


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "pairs",
        help="write preference pairs made from a config's data",
        description="Write preference pairs (a better and a worse answer to a prompt) made from the data of a config. For documents "
        "with entities, rules make the worse answers; the simulated clinic provides notes with one error; published "
        "pairs are kept. The prompt of a pair is the one that the config trains with.",
    )
    verb.add_argument("config", help="YAML file whose section data names the data")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument("--to", required=True, metavar="FILE", help="JSON lines file to write")
    verb.add_argument(
        "--split", choices=("train", "validation"), default="train", help="split to read (train)"
    )
    verb.add_argument(
        "--strategy",
        action="append",
        choices=STRATEGIES,
        help="kind of error in the rejected answers; may be repeated; default: all kinds",
    )
    verb.add_argument(
        "--per-record",
        type=int,
        default=1,
        metavar="N",
        help="largest number of rejected answers per prompt (1)",
    )
    verb.add_argument("--seed", type=int, default=0, help="seed; the same seed makes the same pairs (0)")
    verb.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    add_force(verb, "a file")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.cluster import cluster_address
    from medray.config import read
    from medray.train import check

    if not 1 <= arguments.per_record <= len(STRATEGIES):
        raise InputError(
            f"this number is not between 1 and {len(STRATEGIES)}, the number of strategies",
            key="--per-record",
            value=arguments.per_record,
            fix="use --per-record 2",
        )
    config = read(arguments.config, arguments.overrides)
    check(config, elsewhere=cluster_address(config) is not None, model=False)
    check_new(arguments.to, "--to", force=arguments.force)

    from medray.data.index.sources import sources
    from medray.data.shards.preparation import encode_spec
    from medray.pairs.build import PairCounts, PairOptions, pairs
    from medray.plan.model_config import describe
    from medray.report.console import Console

    found = sources(config, arguments.split)
    if not found:
        raise InputError(
            f"the config has no {arguments.split} data",
            file=arguments.config,
            key=f"data.{arguments.split}",
            fix=f"set data.{arguments.split} to a file, or use --split train",
        )
    spec = encode_spec(config, describe(config.model, config.data.vocab_size).architecture)
    strategies = tuple(dict.fromkeys(arguments.strategy or STRATEGIES))
    options = PairOptions(strategies=strategies, per_record=arguments.per_record, seed=arguments.seed)
    counts = PairCounts()
    with whole_file(arguments.to, "--to") as stream:
        for row in pairs(found, spec, options, counts):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not counts.pairs:
            raise InputError(
                f"{counts.records:,} records give no pair ({counts.bad_rows:,} rows are bad): a pair needs a document "
                "with entities, the simulated clinic, or a row with chosen and rejected",
                file=arguments.config,
                key=f"data.{arguments.split}",
                fix=f"set data.{arguments.split} to such data, or use another --strategy",
            )
    console = Console(sys.stderr)
    console.table(f"pairs, written to {arguments.to}", _table(counts))
    if arguments.json:
        print(json.dumps(counts.to_json() | {"file": str(Path(arguments.to))}))
    return 0


def _table(counts: Any) -> list[tuple[str, ...]]:
    found = counts.to_json()
    return [
        *((f"strategy {name}", f"{count:,}") for name, count in sorted(found["by_strategy"].items())),
        ("pairs", f"{found['pairs']:,}"),
        ("records", f"{found['records']:,}"),
        ("records without a pair", f"{found['without_pair']:,}"),
        ("bad rows", f"{found['bad_rows']:,}"),
        ("rejected / chosen length, mean", f"{found['mean_length_ratio']:.2f}"),
    ]
