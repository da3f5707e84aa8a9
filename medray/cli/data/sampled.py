"""Pairs of `medray data pairs --from-model`: sample answers of a model for a config's data, and reject bad ones.

The samples are predictions in the folder `<FILE>.samples`, made by the job of `medray predict` in resumable parts. They
are kept, so that the same command with another metric or rank makes its pairs without asking the model again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.asked_model import NamedModel, named_model
from medray.cli.outputs import whole_file
from medray.errors import InputError
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.cli.predict.command import AskedCommand
    from medray.config import Config
    from medray.evaluate.prediction.manifest import Manifest
    from medray.pairs.sampled import SampledCounts
    from medray.report.console import Console

MOST_SAMPLES = 64


def run(arguments: argparse.Namespace, config: Config) -> int:
    """Sample what is missing, and write the pairs. Raises InputError for options that do not fit together."""
    from medray.cli.predict.command import STOPPING
    from medray.cli.train import stoppable
    from medray.pairs.sampled import check_ranking

    samples = arguments.samples
    if not 1 <= samples <= MOST_SAMPLES:
        raise InputError(
            f"the number of samples is not between 1 and {MOST_SAMPLES}",
            key="--samples",
            value=samples,
            fix="use --samples 4",
        )
    for key, value in (("--rank", arguments.rank), ("--per-record", arguments.per_record)):
        if not 1 <= value <= samples:
            raise InputError(
                f"this number is not between 1 and {samples}, the number of samples",
                key=key,
                value=value,
                fix=f"use {key} 1, or a larger --samples",
            )
    if not arguments.temperature > 0:
        raise InputError(
            "samples at temperature 0 are all equal",
            key="--temperature",
            value=arguments.temperature,
            fix="use --temperature 1.0",
        )
    check_ranking(arguments.metric)
    if Path(arguments.to).exists() and not Path(arguments.to).is_file():
        raise InputError(
            "the samples need a folder next to a file", key="--to", fix="name a file, such as pairs.jsonl"
        )
    stop = StopSwitch()
    with stoppable(stop, STOPPING):
        return _run(arguments, config, stop)


def _run(arguments: argparse.Namespace, config: Config, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import, cluster_address
    from medray.cli.predict.command import asked_command, check_folder, clear, finished
    from medray.cli.predict.work import predict
    from medray.cli.train import refuse_stopped
    from medray.evaluate.prediction.manifest import MANIFEST, Manifest, check_same
    from medray.report.console import Console
    from medray.report.run_log import Consoles, RunLog
    from medray.train.run_folder import lock

    named = _named(arguments, config)
    before_import(cluster_address(config))
    out = storage.at(f"{arguments.to}.samples")
    check_folder(out)
    log = RunLog(out, command=f"medray data pairs --from-model {arguments.from_model}", mark=MANIFEST)
    shown = Console(sys.stderr)
    console = Consoles(shown, Console(log, interactive=False))
    asking = _prediction(arguments)
    try:
        with lock.held(out, lambda text: console.phase("lock", text)):
            log.begin()
            asked = asked_command(asking, named, [], out, arguments.samples)
            refuse_stopped(stop)
            before = Manifest.read(out)
            if before is not None and arguments.resample and before.facts != asked.facts:
                clear(out)
                before = None
            if before is not None:
                _check_same(check_same, before, asked)
            if before is None or finished(out) is None:
                summary = predict(asking, asked, before, console, stop)
                if summary["status"] == "stopped":
                    console.phase("stopped", "run the same command again, which keeps the finished parts")
                    return stop.exit_code
            else:
                console.phase("samples", f"the answers in {out} were sampled before")
            manifest = Manifest.read(out)
            assert manifest is not None
            counts = _write(arguments, asked, manifest)
    finally:
        log.close()
    _show(arguments, counts, shown)
    return 0


def _named(arguments: argparse.Namespace, config: Config) -> NamedModel:
    """Return the model, with the data, decoding and cluster of the config."""
    from medray.evaluate.asking import asked_model

    named = named_model(arguments.from_model, None, [])
    asked = named.asked if named.asked.tuned else asked_model(arguments.from_model, config)
    return replace(named, asked=asked, config=config)


def _prediction(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of the `medray predict` that samples the answers."""
    return argparse.Namespace(
        model=arguments.from_model,
        split=arguments.split,
        task="label",
        rationale=False,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        stop=None,
        engine="transformers",
        backend=None,
        log_probability=False,
        show_prompt=False,
        strip_section_header=False,
        part_rows=arguments.part_rows,
    )


def _check_same(check: Any, before: Manifest, asked: AskedCommand) -> None:
    try:
        check(before.facts, asked.facts, asked.out)
    except InputError as error:
        raise InputError(
            error.what.replace("predictions", "samples"),
            file=error.file,
            key="--to",
            fix="name another file, repeat the first command, or add --resample to replace the samples",
        ) from None


def _write(arguments: argparse.Namespace, asked: AskedCommand, manifest: Manifest) -> SampledCounts:
    """Rank the samples and write the pairs. Raises InputError if there are none."""
    from medray.pairs.sampled import SampledCounts, SampledOptions, sampled_pairs

    options = SampledOptions(
        samples=arguments.samples,
        metric=arguments.metric,
        rank=arguments.rank,
        per_record=arguments.per_record,
        origin={
            "model": arguments.from_model,
            "weights": str(manifest.facts["model"])[:16],
            "temperature": arguments.temperature,
            "top_p": arguments.top_p,
            "seed": arguments.seed,
        },
    )
    counts = SampledCounts(bad_rows=manifest.rejected)
    with whole_file(arguments.to, "--to") as stream:
        for row in sampled_pairs(_parts(asked, manifest), asked.named.asked.spec, options, counts):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not counts.pairs:
            raise InputError(
                f"{counts.records:,} records give no pair: {counts.without_gold:,} have no answer of their own, and the "
                f"samples of {counts.without_pair:,} equal it or are empty",
                file=arguments.config,
                key=f"data.{arguments.split}",
                fix="use rows with answers, a higher --temperature or more --samples",
            )
    return counts


def _parts(
    asked: AskedCommand, manifest: Manifest
) -> Iterator[tuple[str, Sequence[Any], Sequence[dict[str, Any]]]]:
    """Yield (name of the source, records, their samples) of each part. One part is in memory at a time."""
    from medray.evaluate.prediction.inputs import CONVERTED, plain_sources
    from medray.evaluate.prediction.part_files import PREDICTIONS
    from medray.evaluate.prediction.rows import FileRows

    assert asked.sources is not None
    rows = FileRows(sources=plain_sources(asked.sources, asked.out), samples=asked.samples)
    try:
        with open(storage.local(asked.out / PREDICTIONS), encoding="utf-8") as lines:
            for part in manifest.parts:
                records = [record for record, _ in rows.records(part)]
                yield (
                    asked.sources[part.source].name,
                    records,
                    [json.loads(next(lines)) for _ in range(part.rows)],
                )
    finally:
        storage.remove_tree(asked.out / CONVERTED)


def _show(arguments: argparse.Namespace, counts: SampledCounts, console: Console) -> None:
    found = counts.to_json()
    table: list[tuple[str, ...]] = [
        ("pairs", f"{counts.pairs:,}"),
        ("records", f"{counts.records:,}"),
        ("records without an answer of their own", f"{counts.without_gold:,}"),
        ("records without a wrong sample", f"{counts.without_pair:,}"),
        ("bad rows", f"{counts.bad_rows:,}"),
        ("rejected answers that were cut at max_new_tokens", f"{counts.unfinished:,}"),
        (f"{arguments.metric} of rejected answers, mean", f"{found['mean_score']:.4g}"),
        ("rejected / chosen length, mean", f"{found['mean_length_ratio']:.2f}"),
    ]
    console.table(f"pairs, written to {arguments.to}", table)
    if arguments.json:
        print(json.dumps(found | {"file": str(Path(arguments.to))}))
