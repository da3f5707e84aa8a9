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
# Options of --from-model: type, default, metavar, help.
SAMPLING: dict[str, tuple[Any, Any, str, str]] = {
    "--samples": (int, 4, "N", "answers to each prompt"),
    "--temperature": (float, 1.0, "T", "temperature of sampling"),
    "--top-p": (float, 1.0, "P", "sample from the most probable tokens of this share"),
    "--metric": (str, "rouge", "NAME", "metric that compares the samples with the gold answer"),
    "--rank": (int, 1, "N", "1 rejects the worst sample, 2 the second worst"),
}


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "pairs",
        help="write preference pairs made from a config's data",
        description="Write preference pairs (a better and a worse answer to a prompt) made from the data of a config. For documents "
        "with entities, rules make the worse answers; the simulated clinic provides notes with one error; published "
        "pairs are kept. With --from-model, a model answers each prompt several times, and the worst answer is rejected. "
        "The prompt of a pair is the one that the config trains with.",
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
    verb.add_argument(
        "--from-model",
        metavar="RUN|MODEL",
        help="reject answers that this model samples: a run, an export, a folder, a packaged model or a hub id",
    )
    verb.add_argument(
        "--from-judged",
        metavar="FOLDER",
        help="reject answers that medray judge found wrong: its folder; the ids of its items are those of the data",
    )
    for name, (kind, default, metavar, text) in SAMPLING.items():
        verb.add_argument(name, type=kind, metavar=metavar, help=f"with --from-model: {text} ({default})")
    verb.add_argument(
        "--part-rows", type=int, metavar="N", help="with --from-model: rows of a resumable part"
    )
    verb.add_argument(
        "--resample", action="store_true", help="with --from-model: replace samples of a different command"
    )
    verb.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    add_force(verb, "a file")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.cluster import cluster_address
    from medray.config import read
    from medray.train import check

    _check_together(arguments)
    if arguments.from_model is None and not 1 <= arguments.per_record <= len(STRATEGIES):
        raise InputError(
            f"this number is not between 1 and {len(STRATEGIES)}, the number of strategies",
            key="--per-record",
            value=arguments.per_record,
            fix="use --per-record 2",
        )
    config = read(arguments.config, arguments.overrides)
    check(config, elsewhere=cluster_address(config) is not None, model=False)
    check_new(arguments.to, "--to", force=arguments.force)
    if arguments.from_model is not None:
        from medray.cli.data import sampled

        return sampled.run(arguments, config)

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
    if arguments.from_judged is None:
        made = pairs(found, spec, options, counts)
    else:
        from medray.pairs.judged import judged_pairs, read_judged

        made = judged_pairs(found, spec, read_judged(Path(arguments.from_judged)), counts)
    with whole_file(arguments.to, "--to") as stream:
        for row in made:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not counts.pairs:
            raise InputError(
                f"{counts.records:,} records give no pair ({counts.bad_rows:,} rows are bad): a pair needs "
                + (
                    "a document with entities, the simulated clinic, or a row with chosen and rejected"
                    if arguments.from_judged is None
                    else "a row with an answer, whose id is that of an item that was judged wrong"
                ),
                file=arguments.config,
                key=f"data.{arguments.split}",
                fix=f"set data.{arguments.split} to such data, or use another --strategy",
            )
    console = Console(sys.stderr)
    console.table(f"pairs, written to {arguments.to}", _table(counts))
    if arguments.json:
        print(json.dumps(counts.to_json() | {"file": str(Path(arguments.to))}))
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Set the defaults of --from-model. Raises InputError for options of another kind of pairs."""
    kinds = {"--strategy": arguments.strategy, "--from-model": arguments.from_model}
    kinds["--from-judged"] = arguments.from_judged
    if len(ways := [name for name, value in kinds.items() if value]) > 1:
        raise InputError(
            f"{ways[0]} and {ways[1]} are different ways to find the rejected answers",
            key=ways[0],
            fix=f"remove {ways[0]} or {ways[1]}",
        )
    for name, (_, default, _, _) in SAMPLING.items():
        given = name.removeprefix("--").replace("-", "_")
        if getattr(arguments, given) is None:
            setattr(arguments, given, default)
        elif arguments.from_model is None:
            raise _without_model(name)
    if arguments.from_model is None:
        if arguments.part_rows is not None or arguments.resample:
            raise _without_model("--resample" if arguments.resample else "--part-rows")
    elif arguments.part_rows is not None and arguments.part_rows < 1:
        raise InputError(
            "a part has at least one row",
            key="--part-rows",
            value=arguments.part_rows,
            fix="use --part-rows 128",
        )


def _without_model(name: str) -> InputError:
    return InputError(
        "this option has an effect with --from-model only", key=name, fix="add --from-model RUN"
    )


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
