"""The verb `medray predict`: answers of a model for new data, resumable."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.asked_model import add_decoding, add_model, named_model, split_words
from medray.cli.cluster import cluster_address
from medray.cli.predict.command import STOPPING, asked_command, check_folder, clear, finished, team_name
from medray.errors import InputError, MedrayError
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.report.console import Console
    from medray.report.run_log import Consoles, RunLog


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "predict",
        help="answers of a run or a model for new data, resumable",
        description="Write the answers of a finished run, an export or an untuned model for data files, or for the run's validation "
        "split. Repeat the command to continue after a stop: finished parts are kept. The result is predictions.jsonl in the "
        "folder of --to, one line per row in the order of the input.",
    )
    add_model(verb)
    verb.add_argument(
        "words",
        nargs="*",
        metavar="DATA|key=value",
        help="files to predict: anything that data.train reads; none: the validation split of the run. Also values of dotted keys",
    )
    verb.add_argument("--to", required=True, metavar="FOLDER", help="folder to write; may be s3://...")
    verb.add_argument(
        "--split",
        help="a split of the config's data instead of files: validation, train, or one of the corpus",
    )
    verb.add_argument("--task", default="label", help="label, rationale or rationale/<key> (label)")
    verb.add_argument(
        "--rationale", action="store_true", help="also write the rationale of each row, before its label"
    )
    add_decoding(verb)
    verb.add_argument(
        "--log-probability", action="store_true", help="also write the log-probability of each answer"
    )
    verb.add_argument(
        "--show-prompt",
        action="store_true",
        help="also write the prompt of each row; it contains the row's text",
    )
    verb.add_argument(
        "--layout",
        choices=("generated", "sum"),
        help="also write generated_predictions.txt and its table, or one <id>_sum.txt per row",
    )
    for name in ("team", "run-id", "subtask"):
        verb.add_argument(f"--{name}", help="part of the folder name of --layout sum, for a submission")
    verb.add_argument(
        "--strip-section-header",
        action="store_true",
        help="keep only Y of answers of the form 'Section header: X Section text: Y'",
    )
    verb.add_argument(
        "--engine",
        default="transformers",
        help="transformers, vllm (where installed) or endpoint (transformers)",
    )
    verb.add_argument(
        "--backend",
        metavar="FILE",
        help="for --engine endpoint: YAML file with base_url, model, key_env, limits",
    )
    verb.add_argument("--part-rows", type=int, metavar="N", help="rows of a part file; default: up to 512")
    verb.add_argument(
        "--overwrite", action="store_true", help="delete earlier predictions in the folder first"
    )
    verb.add_argument("--json", action="store_true", help="print the summary as one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.train import stoppable

    if arguments.part_rows is not None and arguments.part_rows < 1:
        raise InputError(
            "a part has at least one row",
            key="--part-rows",
            value=arguments.part_rows,
            fix="use --part-rows 512",
        )
    stop = StopSwitch()
    with stoppable(stop, STOPPING):
        return _run(arguments, stop)


def _run(arguments: argparse.Namespace, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import
    from medray.cli.predict.work import predict
    from medray.cli.train import refuse_stopped
    from medray.evaluate.prediction.manifest import MANIFEST, Manifest, check_same
    from medray.report.console import Console
    from medray.report.run_log import Consoles, RunLog
    from medray.train.run_folder import lock

    team = team_name(arguments)
    paths, overrides = split_words(arguments.words)
    arguments.overrides = overrides  # for the names of keys in errors
    named = named_model(arguments.model, arguments.config, overrides)
    before_import(cluster_address(named.config))
    out = storage.at(arguments.to)
    check_folder(out)
    log = RunLog(out, command=f"medray predict {arguments.model}", mark=MANIFEST)
    console = Consoles(Console(sys.stderr), Console(log, interactive=False))
    with _kept(log), lock.held(out, lambda text: console.phase("lock", text), option="--to"):
        log.begin()
        asked = asked_command(arguments, named, paths, out)
        refuse_stopped(stop)
        if arguments.overwrite:  # only now: a command that is refused removes nothing
            clear(out)
        before = Manifest.read(out)
        if before is not None:
            check_same(before.facts, asked.facts, out)
        summary = finished(out) if before is not None else None
        if summary is None:
            summary = predict(arguments, asked, before, console, stop)
        else:
            console.phase("done", "these predictions were finished before; --overwrite makes them again")
        if arguments.layout and summary["status"] == "done":
            from medray.evaluate.prediction.layouts import write_layout

            written = write_layout(out, arguments.layout, team)
            console.phase("layout", ", ".join(map(str, written)))
        _show(console, summary)
    if arguments.json:
        print(json.dumps(summary))
    return stop.exit_code if summary["status"] == "stopped" else 0


@contextmanager
def _kept(log: RunLog) -> Iterator[None]:
    """Add the error that ends the block to the log, and close the log."""
    try:
        yield
    except MedrayError as error:
        log.write(f"medray: {error}\n")
        raise
    finally:
        log.close()


def _show(console: Console | Consoles, summary: dict[str, Any]) -> None:
    from medray.report.console import duration

    rows: list[tuple[str, ...]] = [("status", summary["status"]), ("rows", f"{summary['rows']:,}")]
    if summary["status"] == "stopped":
        rows.append(("continue", "run the same command again"))
        console.table("predictions", rows)
        return
    rows += [
        (label, f"{summary[name]:,}")
        for name, label in (
            ("rejected", "rows that cannot be predicted, in rejects.jsonl"),
            ("cut", "prompts that were cut"),
            ("unfinished", "answers that ended at max_new_tokens"),
            ("empty", "empty answers"),
        )
        if summary[name]
    ]
    rows += [("time", duration(summary["seconds"])), ("file", str(summary["predictions"]))]
    console.table("predictions", rows)
    if summary["warnings"]:
        console.table(
            "WARNING: check this before you use the predictions", [(text,) for text in summary["warnings"]]
        )
