"""The part of `medray predict` that needs a cluster: index, predict what is missing, merge."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.asked_model import NamedModel, decoding_of
from medray.cli.cluster import cluster_address
from medray.cli.predict.command import STOPPING, SUMMARY, AskedCommand, backend_of
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.config import Config
    from medray.evaluate.prediction.job import PredictJob
    from medray.evaluate.prediction.manifest import Manifest
    from medray.evaluate.prediction.part_files import Counts
    from medray.report.console import Console
    from medray.report.run_log import Consoles

POLL_SECONDS = 0.2


def predict(
    arguments: argparse.Namespace,
    asked: AskedCommand,
    before: Manifest | None,
    console: Console | Consoles,
    stop: StopSwitch,
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
    asked: AskedCommand,
    before: Manifest | None,
    console: Console | Consoles,
    stop: StopSwitch,
    begun: float,
) -> dict[str, Any]:
    from medray.evaluate.prediction.job import PredictJob
    from medray.evaluate.prediction.part_files import PARTS, Counts, read_part

    config, out = asked.named.config, asked.out
    backend = backend_of(arguments)
    # One actor asks a server, because the limits on requests are those of one process.
    workers, cpus, gpus, threads = _shape(config) if backend is None else (1, 0.5, 0.0, 1)
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
        backend=backend,
        log_probability=arguments.log_probability,
        show_prompt=arguments.show_prompt,
        rationale=arguments.rationale,
        strip_section_header=arguments.strip_section_header,
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
    arguments: argparse.Namespace,
    asked: AskedCommand,
    before: Manifest | None,
    console: Console | Consoles,
    workers: int,
) -> tuple[Manifest, Any]:
    """Return the manifest with the parts, and the rows. An earlier manifest is kept."""
    from medray.evaluate.prediction.inputs import CONVERTED, default_part_rows, index_inputs, plain_sources
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
    if before is None:
        storage.remove_tree(
            out / CONVERTED
        )  # of a start that was killed before its manifest: the input may have changed
    plain = plain_sources(asked.sources, out)
    if before is not None:
        return before, FileRows(sources=plain, samples=asked.samples)
    indexed = index_inputs(
        plain,
        out,
        most_bad=config.data.max_rejects,
        part_rows=arguments.part_rows,
        shape=(workers, batch_size),
    )
    parts = tuple(replace(part, rows=part.rows * asked.samples) for part in indexed.parts)
    manifest = Manifest(facts=asked.facts, parts=parts, rejected=indexed.rejected)
    manifest.write(out)
    return manifest, FileRows(sources=plain, samples=asked.samples)


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
    console: Console | Consoles,
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
        "warnings": warnings(storage.local(file)),
    }
    json_files.write_sealed(out / SUMMARY, summary, indent=2)
    for name in (PARTS, CONVERTED):
        storage.remove_tree(out / name)
    return summary


def _counted(counts: Counts) -> dict[str, int]:
    return asdict(counts) | {"rows": counts.rows}
