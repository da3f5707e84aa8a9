"""The action `medray data annotate`: rationales by a teacher for labelled records."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.outputs import add_force, check_new, whole_file
from medray.errors import InputError, MedrayError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medray.config.annotate import AnnotateConfig
    from medray.evaluate.annotate.asking import Annotation
    from medray.evaluate.annotate.items import ReadCounts
    from medray.report.console import Console

REPORT, PROMPT = "report.json", "prompt.json"
TOLD_EVERY = 100  # samples


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "annotate",
        help="write rationales of a teacher for labelled records",
        description="Ask a teacher for a rationale of each labelled record, keep those whose answer equals the label, and "
        "write records that method.name: distill trains on. Samples and prompt are kept in FILE.annotate; run the command "
        "again to continue.",
    )
    verb.add_argument("config", help="YAML file, such as configs/annotate.yaml")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument("--to", metavar="FILE", help="JSON lines file to write (the config's key `to`)")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print the number of requests and their cost; send nothing",
    )
    verb.add_argument("--json", action="store_true", help="print the figures as one JSON object at the end")
    add_force(verb, "a file")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.annotate import read_annotate
    from medray.data.index.sources import extraction_of, sources
    from medray.evaluate.annotate.asking import Annotation
    from medray.evaluate.annotate.items import ReadCounts, items
    from medray.evaluate.annotate.state import Samples, writing
    from medray.report.console import Console

    config = read_annotate(arguments.config, arguments.overrides)
    target = _target(arguments, config)
    folder = target.with_name(f"{target.name}.annotate")
    check_new(str(target), "--to", force=arguments.force or folder.is_dir())
    run_config = config.run_config()
    found = sources(run_config, config.split)
    if not found:
        raise InputError(
            f"the config has no {config.split} data",
            file=arguments.config,
            key=f"data.{config.split}",
            fix=f"set data.{config.split}, or another split",
        )
    read = ReadCounts()
    every = items(found, extraction_of(run_config), read, config.first)
    if not every:
        raise InputError(
            f"no record can be annotated ({read.bad_rows:,} rows are bad{_said(read.left_out)})",
            file=arguments.config,
            key=f"data.{config.split}",
            fix="use records with an input and a label; data.columns names their columns",
        )
    console = Console(sys.stderr if arguments.json else sys.stdout)
    if arguments.dry_run:
        annotation = Annotation(config, every, Samples(folder), _weights(config, folder))
        annotation.check_allowed()
        _show_plan(console, annotation, read)
        return 0
    with writing(folder):
        annotation = Annotation(config, every, Samples(folder), _weights(config, folder))
        return _run(annotation, read, target, folder, console, arguments)


def _weights(config: AnnotateConfig, folder: Path) -> object:
    """Return what identifies the weights of a local teacher; None for another one. folder: keeps hashes of large files."""
    if config.teacher.type != "local":
        return None
    from medray.cli.predict.command import weights_facts
    from medray.evaluate.local_backend import asked_locally

    weights = asked_locally(str(config.teacher.model), "teacher").weights
    return weights_facts(weights, folder / ".hashes" if folder.is_dir() else None)


def _target(arguments: argparse.Namespace, config: AnnotateConfig) -> Path:
    name = arguments.to or config.to
    if name is None:
        raise InputError(
            "no file to write is named", key="--to", fix="add --to annotated.jsonl, or set the key `to`"
        )
    if storage.is_remote(name):
        raise InputError(
            "the file must be on a file system, where its folder of samples can be locked",
            key="--to",
            value=name,
            fix="name a local or shared file",
        )
    return Path(name)


def _run(
    annotation: Annotation,
    read: ReadCounts,
    target: Path,
    folder: Path,
    console: Console,
    arguments: argparse.Namespace,
) -> int:
    from medray.backends.price import Budget
    from medray.evaluate.annotate.output import Figures, rows
    from medray.evaluate.annotate.own_rationale import own_rationale
    from medray.evaluate.local_backend import local_backend

    config, samples = annotation.config, annotation.samples
    annotation.check_allowed()
    _show_plan(console, annotation, read)
    _keep_prompt(annotation, folder)
    if config.ask == "rationale":
        backend = own_rationale(config.teacher, "teacher", annotation.items)
    else:
        backend = annotation.backend(folder, Budget(config.budget, samples.cost), local_backend)
    error, failures = None, dict[str, int]()
    try:
        failures = dict(annotation.ask(backend, _told))
    except MedrayError as stopped:  # samples that have arrived are used, and shown before the error
        error = stopped
    if backend.usage.uncertain_cost:
        samples.add_uncertain(backend.usage.uncertain_cost)
    figures = Figures()
    with whole_file(str(target), "--to") as stream:
        for row in rows(annotation, figures):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    numbers = figures.to_json(annotation, read)
    numbers |= {"cost": samples.cost, "requests": backend.usage.to_json(), "file": str(target)}
    storage.write(folder / REPORT, json.dumps(numbers, indent=1).encode())
    _show(console, numbers)
    if error is not None:
        raise error
    if arguments.json:
        print(json.dumps(numbers))
    if figures.pending:
        raise RunFailedError(
            f"{figures.pending:,} records are not decided, because requests failed{_said(failures)}; they are not in the "
            "file\n  Fix: run the command again"
        )
    if not figures.explained:
        raise RunFailedError(
            f"no rationale was kept: no sample has the answer of its record ({config.filter.answer!r} precedes an answer)\n"
            f"  Fix: read the samples in {folder}, and change prompt, filter.compare or the teacher"
        )
    return 0


def _told(arrived: int) -> None:
    if arrived % TOLD_EVERY == 0:
        print(f"{arrived:,} samples have arrived", file=sys.stderr)


def _said(counts: Mapping[str, int]) -> str:
    return "".join(f"; {reason}: {count:,}" for reason, count in counts.items())


def _keep_prompt(annotation: Annotation, folder: Path) -> None:
    """Write how the teacher is asked. The records are not in it."""
    config = annotation.config
    kept = {
        "ask": config.ask,
        "system": config.system,
        "prompt": config.prompt if config.ask == "prompt" else None,
        "teacher": {"type": config.teacher.type, "model": config.teacher.model},
        "samples": config.samples,
        "temperature": config.heat,
        "top_p": config.top_p,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "filter": config.filter.model_dump() | {"compare": annotation.compare},
    }
    storage.write(folder / PROMPT, json.dumps(kept, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"))  # fmt: skip


def _show_plan(console: Console, annotation: Annotation, read: ReadCounts) -> None:
    config = annotation.config
    teacher, found = config.teacher, annotation.estimate()
    rows: list[tuple[str, ...]] = [("records", f"{len(annotation.items):,}")]
    rows += [(f"left out, {kind}", f"{count:,}") for kind, count in read.left_out.items()]
    if read.bad_rows:
        rows.append(("bad rows", f"{read.bad_rows:,}"))
    where = f" at {teacher.base_url}" if teacher.base_url else ""
    rows.append(("teacher", f"{teacher.type} {teacher.model or ''}{where}"))
    rows.append(("answers compared by", annotation.compare))
    most = "at most " if config.samples > 1 else ""
    rows.append(("requests", f"{most}{found.requests:,}, about {found.prompt_tokens:,} tokens of prompts"))
    if teacher.price:
        rows.append(("cost", f"about {found.cost:,.4g}, at most {found.most_cost:,.4g}"))
        if config.budget is not None:
            rows.append(("budget", f"{annotation.samples.cost:,.4g} of {config.budget:,.4g} spent"))
    console.table("annotate", rows)


def _show(console: Console, numbers: Mapping[str, Any]) -> None:
    def share(part: int, whole: int) -> str:
        return f"{part:,} ({100 * part / whole:.1f} %)" if whole else f"{part:,}"

    records, samples = numbers["records"], numbers["samples"]
    total = sum(samples.values())
    rows: list[tuple[str, ...]] = [
        ("records", f"{records:,}"),
        ("with a rationale", share(numbers["with_rationale"], records)),
        ("without", share(numbers["without_rationale"], records)),
    ]
    if numbers["pending"]:
        rows.append(("pending", share(numbers["pending"], records)))
    rows.append(("samples", f"{total:,}"))
    rows += [(f"samples {state}", share(count, total)) for state, count in samples.items()]
    if numbers["first_sample_right"] is not None and numbers["compare"] != "none":
        rows.append(("accuracy of first samples", f"{100 * numbers['first_sample_right']:.1f} %"))
    if numbers["cost"]:
        rows.append(("cost of all starts", f"{numbers['cost']:,.4g}"))
    rows += [("rows written", f"{numbers['written']:,}"), ("file", numbers["file"])]
    console.table("rationales", rows)
