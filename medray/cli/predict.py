"""The verb `medray predict`: answers of a model for new data, resumable."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.asked_model import NamedModel, add_decoding, add_model, decoding_of, named_model, split_words
from medray.cli.cluster import cluster_address
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.config import Config
    from medray.data.index.sources import Source
    from medray.evaluate.prediction.job import PredictJob
    from medray.evaluate.prediction.manifest import Manifest
    from medray.evaluate.prediction.part_files import Counts
    from medray.report.console import Console

SUMMARY = "summary.json"
POLL_SECONDS = 0.2
STOPPING = "stopping; finished parts are kept"


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
        "--engine",
        default="transformers",
        help="transformers, vllm (where installed) or endpoint (transformers)",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The command with everything that needs no cluster. sources: None for the validation shards of the run."""

    named: NamedModel
    out: StoragePath
    sources: tuple[Source, ...] | None
    facts: dict[str, Any]


def _run(arguments: argparse.Namespace, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import
    from medray.cli.train import refuse_stopped
    from medray.evaluate.prediction.manifest import Manifest, check_same
    from medray.report.console import Console
    from medray.train.run_folder import lock

    paths, overrides = split_words(arguments.words)
    arguments.overrides = overrides  # for the names of keys in errors
    named = named_model(arguments.model, arguments.config, overrides)
    before_import(cluster_address(named.config))
    out = storage.at(arguments.to)
    _check_folder(out)
    console = Console(sys.stderr)
    with lock.held(out, lambda text: console.phase("lock", text)):
        if arguments.overwrite:
            _clear(out)
        asked = _asked(arguments, named, paths, out)
        refuse_stopped(stop)
        before = Manifest.read(out)
        if before is not None:
            check_same(before.facts, asked.facts, out)
        summary = _finished(out) if before is not None else None
        if summary is None:
            summary = _predict(arguments, asked, before, console, stop)
        else:
            console.phase("done", "these predictions were finished before; --overwrite makes them again")
    _show(console, summary)
    if arguments.json:
        print(json.dumps(summary))
    return stop.exit_code if summary["status"] == "stopped" else 0


def _asked(
    arguments: argparse.Namespace, named: NamedModel, paths: Sequence[str], out: StoragePath
) -> _Asked:
    """Check the command, and collect what decides its result."""
    from medray.evaluate.prediction.engines import check_engine
    from medray.evaluate.prediction.inputs import facts_of, named_sources, split_sources
    from medray.models.weights_identity import of_folder

    asked, config = named.asked, named.config
    asked.check_task(arguments.task)
    if arguments.rationale:
        if arguments.task != "label":
            raise InputError(
                "this option adds the rationale to the label", key="--rationale", fix="use --task label"
            )
        asked.check_task("rationale")
    decoding = decoding_of(arguments, config)
    check_engine(arguments.engine, asked, decoding)
    if paths and arguments.split:
        raise InputError("files and a split exclude each other", key="--split", fix="name files, or a split")
    found: tuple[Source, ...] | None = None
    if paths:
        found = named_sources(paths, config)
    elif arguments.split or named.run is None or named.run.tokens is None:
        found = split_sources(config, arguments.split or "validation")
    if found is None:
        assert named.run is not None
        manifest = named.run.manifests.get("validation")
        if not manifest:
            raise InputError(
                "the run has no validation split",
                key="DATA",
                fix="name the files to predict, such as `medray predict RUN new.jsonl --to out`",
            )
        facts: dict[str, Any] = {"input, validation shards": str(named.run.tokens)}
    else:
        facts = facts_of(found)
    facts |= {
        "model": of_folder(
            str(storage.local(asked.weights)) if storage.is_remote(asked.weights) else asked.weights
        ),
        "prompts": json.dumps(asdict(asked.spec), sort_keys=True, default=str),
        "task": arguments.task,
        "rationale": arguments.rationale,
        "engine": arguments.engine,
        "log_probability": arguments.log_probability,
        "show_prompt": arguments.show_prompt,
        **{f"decoding.{name}": value for name, value in asdict(decoding).items()},
    }
    facts["decoding.stop"] = list(decoding.stop)
    return _Asked(named=named, out=out, sources=found, facts=json.loads(json.dumps(facts)))


def _predict(
    arguments: argparse.Namespace, asked: _Asked, before: Manifest | None, console: Console, stop: StopSwitch
) -> dict[str, Any]:
    """Start or join the cluster, predict what is missing, and merge. Return the summary."""
    from medray.cli.cluster import connect, disconnect
    from medray.cli.train import on_signals, refuse_stopped

    console.phase("start", f"{arguments.model} to {asked.out}")
    begun = time.monotonic()
    import ray  # noqa: F401  # completely, before two threads import

    try:
        connect(cluster_address(asked.named.config))
        on_signals(stop, STOPPING)  # again, because Ray has replaced the handler of SIGTERM
        refuse_stopped(stop)
        return _with_cluster(arguments, asked, before, console, stop, begun)
    finally:
        disconnect()


def _with_cluster(
    arguments: argparse.Namespace,
    asked: _Asked,
    before: Manifest | None,
    console: Console,
    stop: StopSwitch,
    begun: float,
) -> dict[str, Any]:
    from medray.evaluate.prediction.job import PredictJob
    from medray.evaluate.prediction.part_files import PARTS, Counts, read_part

    config, out = asked.named.config, asked.out
    workers, cpus, gpus, threads = _shape(config)
    if isinstance(out, Path):
        (out / PARTS).mkdir(exist_ok=True, mode=0o700)
    manifest, rows = _divided(arguments, asked, before, console, workers)
    job = PredictJob(
        asked=asked.named.asked,
        rows=rows,
        out=str(out),
        task=arguments.task,
        decoding=decoding_of(arguments, config),
        batch_size=config.eval.batch_size,
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        threads=threads,
        engine=arguments.engine,
        log_probability=arguments.log_probability,
        show_prompt=arguments.show_prompt,
        rationale=arguments.rationale,
    )
    counts, todo = Counts(), []
    for number, part in enumerate(manifest.parts):
        found = read_part(out, number, part.rows)
        if found is None:
            todo.append((number, part))
        else:
            counts += found[1]
    if counts.rows:
        console.phase("resume", f"{counts.rows:,} of {manifest.rows:,} rows are done")
    console.phase(
        "predict",
        f"{sum(part.rows for _, part in todo):,} rows in {len(todo)} parts, {min(workers, max(len(todo), 1))} workers",
    )
    counts = _watched(job, todo, counts, manifest.rows, console, stop)
    if stop.reason:
        return {"status": "stopped", "rows": manifest.rows, **_counted(counts)}
    return _merged(out, manifest, counts, time.monotonic() - begun)


def _divided(
    arguments: argparse.Namespace, asked: _Asked, before: Manifest | None, console: Console, workers: int
) -> tuple[Manifest, Any]:
    """Return the manifest with the parts, and the rows. An earlier manifest is kept."""
    from medray.evaluate.prediction.inputs import default_part_rows, index_inputs, plain_sources
    from medray.evaluate.prediction.manifest import Manifest
    from medray.evaluate.prediction.rows import FileRows, ShardRows

    config, out = asked.named.config, asked.out
    batch_size = config.eval.batch_size
    if asked.sources is None:
        shards = ShardRows(tokens=_validation_shards(asked.named))
        count = shards.tokens.index.rows
        size = arguments.part_rows or default_part_rows(count, workers, batch_size)
        manifest = before or Manifest(facts=asked.facts, parts=tuple(shards.parts(size)), rejected=0)
        manifest.write(out)
        return manifest, shards
    console.phase("data", ", ".join(source.name for source in asked.sources)[:200])
    plain = plain_sources(asked.sources, out)
    if before is not None:
        return before, FileRows(sources=plain)
    indexed = index_inputs(
        plain,
        out,
        most_bad=config.data.max_rejects,
        part_rows=arguments.part_rows,
        shape=(workers, batch_size),
    )
    manifest = Manifest(facts=asked.facts, parts=indexed.parts, rejected=indexed.rejected)
    manifest.write(out)
    return manifest, FileRows(sources=plain)


def _validation_shards(named: NamedModel) -> Any:
    """Return the token set of the validation split of a run."""
    from medray.data.index.membership import SplitIndex
    from medray.data.shards.token_split import TokenSet

    assert named.run is not None
    assert named.run.tokens is not None
    folder = named.run.tokens / "validation"
    return TokenSet(
        folder=str(folder),
        tokenizer=named.asked.tokenizer,
        spec=named.asked.spec,
        index=SplitIndex.read(folder / "index.json"),
    )


def _shape(config: Config) -> tuple[int, float, float, int]:
    """Return (workers, CPUs, GPUs and threads of each) for the connected cluster: one worker per GPU, or cluster.workers."""
    from medray.train.prepare import supply

    have = supply()
    total = max(int(have.cpus), 1)
    given = config.cluster.most_workers if config.cluster.gives("workers") else None
    if have.gpus and config.cluster.gpus is not False:
        workers = max(1, min(given or int(have.gpus), int(have.gpus)))
        return workers, min(1.0, total / workers), 1.0, config.cluster.threads_per_worker or 1
    workers = max(1, min(given or 1, total))
    threads = config.cluster.threads_per_worker or max(1, total // workers)
    return workers, config.cluster.cpus_per_worker or max(total / workers * 0.9, 0.01), 0.0, threads


def _watched(
    job: PredictJob,
    todo: Sequence[tuple[int, Any]],
    counts: Counts,
    total: int,
    console: Console,
    stop: StopSwitch,
) -> Counts:
    """Run the job in a side thread, print the progress, and return the counts of all finished parts."""
    from medray.evaluate.prediction.job import predict_parts
    from medray.report.console import duration
    from medray.train.failure import last_line
    from medray.train.side_thread import SideThread

    before, begun, done = counts.rows, time.monotonic(), counts

    def work() -> None:
        nonlocal done
        for part in predict_parts(job, todo):
            done += part.counts

    thread, shown = SideThread(work), -1
    while thread.running(POLL_SECONDS) and not stop.reason:
        console.heartbeat()
        if done.rows != shown and done.rows > before:
            shown = done.rows
            left = (time.monotonic() - begun) / (shown - before) * (total - shown)
            console.progress("predict", shown, total, f"{duration(left)} left")
    if stop.reason:
        return done  # the parts that are not finished are predicted again
    try:
        thread.result()
    except (InputError, RunFailedError):
        raise
    except Exception as error:
        raise RunFailedError(
            f"the prediction job failed: {last_line(error)}. Fix: run the same command again, which keeps the finished parts"
        ) from error
    return done


def _merged(out: StoragePath, manifest: Manifest, counts: Counts, seconds: float) -> dict[str, Any]:
    """Write predictions.jsonl and the summary, and remove the part files."""
    from medray.evaluate.prediction.inputs import CONVERTED
    from medray.evaluate.prediction.part_files import PARTS, merge
    from medray.evaluate.prediction.warnings import warnings
    from medray.storage import json_files

    file = merge(out, [part.rows for part in manifest.parts])
    summary = {
        "status": "done",
        "rows": manifest.rows,
        **_counted(counts),
        "rejected": manifest.rejected,
        "seconds": round(seconds, 3),
        "predictions": str(file),
        "warnings": warnings(storage.local(file), counts),
    }
    json_files.write_sealed(out / SUMMARY, summary, indent=2)
    for name in (PARTS, CONVERTED):
        storage.remove_tree(out / name)
    return summary


def _counted(counts: Counts) -> dict[str, int]:
    return asdict(counts) | {"rows": counts.rows}


def _finished(out: StoragePath) -> dict[str, Any] | None:
    """Return the summary of earlier predictions that are complete; None if there are none."""
    from medray.evaluate.prediction.part_files import PREDICTIONS
    from medray.storage import json_files

    try:
        summary = json_files.read_sealed(out / SUMMARY, fix="start from the beginning with --overwrite")
    except FileNotFoundError:
        return None
    return summary if summary.get("status") == "done" and (out / PREDICTIONS).exists() else None


def _check_folder(out: StoragePath) -> None:
    """Raise InputError if --to is a file, or a folder that something else has filled."""
    from medray.evaluate.prediction.manifest import MANIFEST

    storage.check_reachable(out)
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise InputError("this is a file, not a folder", file=out, key="--to", fix="name a new folder")
    others = {name for name in storage.sizes(out) if not name.startswith(".")}
    if others - {"rejects.jsonl"} and MANIFEST not in others:
        raise InputError(
            "this folder has files that medray predict did not write",
            file=out,
            key="--to",
            fix="name a new folder",
        )


def _clear(out: StoragePath) -> None:
    """Remove earlier predictions from a folder."""
    from medray.evaluate.prediction.inputs import CONVERTED, REJECTS
    from medray.evaluate.prediction.manifest import MANIFEST
    from medray.evaluate.prediction.part_files import PARTS, PREDICTIONS

    for name in (SUMMARY, PREDICTIONS, REJECTS, MANIFEST):
        (out / name).unlink(missing_ok=True)
    for name in (PARTS, CONVERTED):
        storage.remove_tree(out / name)


def _show(console: Console, summary: dict[str, Any]) -> None:
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
        console.table("WARNING: check the model before you use it", [(text,) for text in summary["warnings"]])
