"""The verb `medray data import`: convert a published corpus into data files that medray trains on."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medray.errors import InputError, printable
from medray.report.console import Console

SPLITS = ("train", "validation", "test")
DEFAULT_ROWS = 2000  # rows of a sample: the size of the published short set


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "import",
        help="convert the files of a published corpus into records",
        description="Convert the files of a published corpus into records: one JSONL file per split, rejects.jsonl, "
        "and import.json with counts, hashes and the licence. Nothing is downloaded.",
    )
    verb.add_argument(
        "name", metavar="NAME", help="name of a corpus, as in data.dataset; all: every corpus in SOURCE"
    )
    verb.add_argument("source", metavar="SOURCE", help="folder or URL of the published files")
    verb.add_argument(
        "dest", metavar="DEST", help="folder to write; all: one folder per corpus is made in it"
    )
    verb.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="split to import; may be repeated; default: all that exist",
    )
    verb.add_argument(
        "--label-source",
        choices=("gt", "llm"),
        default="gt",
        help="training labels: gt, the gold labels, or llm, the teacher's (gt)",
    )
    verb.add_argument(
        "--teacher",
        choices=("palm", "gpt", "generic"),
        help="teacher whose completions are used; default: that of the corpus",
    )
    verb.add_argument(
        "--pair-join",
        choices=("newline", "eos"),
        help="separator of premise and hypothesis; default: as published",
    )
    verb.add_argument(
        "--eos-token",
        default="</s>",
        help="text of the end token, which joins pairs if the separator is eos (</s>)",
    )
    verb.add_argument(
        "--legacy-and",
        action="store_true",
        help="parse (a) and (b) in a teacher's equations as the published code did",
    )
    verb.add_argument(
        "--version",
        action="append",
        metavar="FAMILY/SET",
        help="published instruct set with its prompt column, such as gemma/combined_short; may be repeated",
    )
    verb.add_argument("--all", action="store_true", help="import all sixteen published instruct sets")
    verb.add_argument(
        "--subset",
        choices=("slices", "sample", "small"),
        help="slices: the published short instruct set; sample: --rows rows, from each source in proportion; "
        "small: the first 55,000 rows of esnli",
    )
    verb.add_argument("--rows", type=int, help="number of rows of a sample; default: 2000")
    verb.add_argument("--seed", type=int, help="seed of a sample; default: 0")
    verb.add_argument("--force", action="store_true", help="overwrite an earlier import")
    verb.add_argument("--json", action="store_true", help="print import.json at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check_name(arguments.name)
    source, target = _source(arguments.source), Path(arguments.dest)
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    folders: dict[str, Path] = {}
    if arguments.version or arguments.all:
        found["versions"], folders["versions"] = _versions(arguments, source), target
    elif arguments.name == "all":
        sources, skipped = _all(source)
        for name, folder in sources.items():
            folders[name] = target / name
            found[name] = _corpus(arguments, name, folder, folders[name])
    else:
        found[arguments.name] = _corpus(arguments, arguments.name, source, target)
        folders[arguments.name] = target
    _show(found, folders, skipped)
    if arguments.json:
        print(json.dumps({**found, "skipped": skipped} if arguments.name == "all" else found))
    return 0


def _show(found: dict[str, Any], folders: dict[str, Path], skipped: dict[str, str]) -> None:
    from medray.cli.data.corpora import show
    from medray.report.console import Console

    console = Console(sys.stderr)
    for name, account in found.items():
        show(console, name, account, str(folders[name]))
    for folder, reason in skipped.items():
        console.phase("skipped", f"{printable(folder)}: {reason}")


def _source(source: str) -> str:
    if "://" not in source and not Path(source).expanduser().is_dir():
        raise InputError(
            "this folder does not exist",
            key="SOURCE",
            value=source,
            fix="use the folder of the published files as SOURCE",
        )
    return source.rstrip("/") or "/"


def _all(source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the folders of the corpora in `source`, and the reasons why its other folders are skipped."""
    from medray.data.corpora.discover import discover
    from medray.data.corpora.published import CORPORA

    found = discover(source)
    if not found.places:
        folders = ", ".join(dict.fromkeys(each for known in CORPORA.values() for each in known.folders))
        raise InputError(
            "the folder contains no folder that is named after a corpus and has its files",
            key="SOURCE",
            value=source,
            fix=f"use a SOURCE with folders named {folders}; or import one corpus by its name",
        )
    return found.places, found.skipped


def _check_name(name: str) -> None:
    from medray.data import corpora

    if name != "all" and name not in corpora.NAMES:
        near = difflib.get_close_matches(name.lower(), ("all", *corpora.NAMES), n=1)
        known = f"use all, or one of {', '.join(corpora.NAMES)}"
        raise InputError(
            "this is not a published corpus that medray knows",
            key="NAME",
            value=name,
            fix=f"did you mean {near[0]}? If not, {known}" if near else known,
        )


def _corpus(arguments: argparse.Namespace, name: str, source: str, target: Path) -> dict[str, Any]:
    from medray.data import corpora
    from medray.data.corpora import importing

    _check_options(arguments, name)
    # If no file exists, reading train raises the error that names the expected files.
    splits = tuple(arguments.split or corpora.splits(name, source) or ("train",))
    for split in splits:
        if split not in corpora.splits(name):
            published = ", ".join(corpora.splits(name))
            raise InputError(
                f"{name} has no split {split}", key="--split", fix=f"use one or more of {published}"
            )
    if arguments.subset in ("slices", "sample") or arguments.rows is not None:
        return importing.import_subset(name, source, target, _subset(arguments), force=arguments.force)
    options = corpora.CorpusOptions(
        label_source=arguments.label_source,
        teacher=arguments.teacher,
        pair_join=arguments.pair_join,
        eos_token=arguments.eos_token,
        legacy_and=arguments.legacy_and,
        subset=arguments.subset,
    )
    return importing.import_corpus(name, source, target, splits, options, force=arguments.force)


def _check_options(arguments: argparse.Namespace, name: str) -> None:
    """Refuse an option that the corpus does not use: ignoring it would hide a mistake."""
    from medray.data.corpora.published import CORPORA

    kind, pairs = CORPORA[name].kind, CORPORA[name].pair_join is not None
    taught, instructs, equations = kind == "steps", kind == "instruct", name in ("svamp", "asdiv")
    subset_fits = name == "esnli" if arguments.subset == "small" else instructs
    for option, given, fits, what in (
        ("--label-source", arguments.label_source != "gt", taught, "labels of a teacher"),
        ("--teacher", arguments.teacher is not None, taught, "teacher"),
        ("--legacy-and", arguments.legacy_and, equations, "equations"),
        ("--pair-join", arguments.pair_join is not None, pairs, "premise and hypothesis"),
        ("--eos-token", arguments.eos_token != "</s>", pairs, "premise and hypothesis"),
        ("--subset", arguments.subset is not None, subset_fits, "this subset"),
        ("--rows", arguments.rows is not None, instructs, "samples"),
        ("--seed", arguments.seed is not None, instructs, "samples"),
    ):
        if given and not fits:
            raise InputError(f"{name} has no {what}", key=option, fix=f"remove {option}")


def _versions(arguments: argparse.Namespace, source: str) -> dict[str, Any]:
    from medray.data.corpora import importing, instruct

    if arguments.name not in ("wikidoc", "medquad"):
        raise InputError(
            "--version builds instruct sets from wikidoc and medquad, not from this corpus",
            key="NAME",
            value=arguments.name,
            fix="use the name medquad, and a SOURCE with the files of both",
        )
    if arguments.split:
        raise InputError(
            "an instruct set of --version has only the split train", key="--split", fix="remove --split"
        )
    _check_options(arguments, arguments.name)
    versions = tuple(dict.fromkeys(instruct.VERSIONS if arguments.all else arguments.version))
    subset = _subset(arguments) if arguments.subset or arguments.rows is not None else None
    return importing.import_versions(versions, source, Path(arguments.dest), subset, force=arguments.force)


def _subset(arguments: argparse.Namespace) -> Any:
    from medray.data.corpora.importing import Subset

    mode, rows, seed = arguments.subset or "sample", arguments.rows, arguments.seed or 0
    if mode == "slices" and (rows is not None or arguments.seed is not None):
        key = "--seed" if rows is None else "--rows"
        raise InputError(
            "this option has no effect: the published slices are always the same 2,000 rows",
            key=key,
            fix=f"remove {key}, or use --subset sample",
        )
    if seed < 0 or (rows is not None and rows < 1):
        key, value = ("--seed", seed) if seed < 0 else ("--rows", rows)
        raise InputError(
            "this number is too small", key=key, value=value, fix="use --rows 1 or more and --seed 0 or more"
        )
    return Subset(mode, DEFAULT_ROWS if rows is None else rows, seed)


def show(console: Console, name: str, account: Mapping[str, Any], folder: str) -> None:
    """Print the results of an import: a table of the splits, the file of rejected rows, the rows left out, and warnings.

    folder: the folder that the corpus was written to. Columns without a number for any split are left out.
    """
    console.table(f"{name}, written to {folder}", _table(account["splits"], "rows written"))
    if account["sources"]:
        console.table("made of", _table(account["sources"], "usable rows"))
    counted = {**account["splits"], **account["sources"]}
    for split, found in counted.items():
        if found["rejected"]:
            console.phase(
                "rejected", f"{split}: {found['rejected']:,}; {folder}/rejects.jsonl has the reason of each"
            )
    for split, found in counted.items():
        for reason, count in found["dropped"].items():
            console.phase("left out", f"{split}: {count:,}, {reason}")
    for warning in account["warnings"]:
        console.phase("warning", warning)


def _table(splits: Mapping[str, Mapping[str, Any]], rows: str) -> list[tuple[str, ...]]:
    columns = {
        "": list(splits),
        rows: [f"{found['rows']:,}" for found in splits.values()],
        "rejected": [f"{found['rejected']:,}" for found in splits.values()],
        "left out": [f"{sum(found['dropped'].values()):,}" for found in splits.values()],
        "published": [_number(found["published"]) for found in splits.values()],
        "no rationale": [_number(found["without_rationale"]) for found in splits.values()],
    }
    teachers = [found["teacher"] for found in splits.values()]
    for title, key in (
        ("label not parsed", "parse_failures_label"),
        ("rationale not parsed", "parse_failures_rationale"),
    ):
        columns[title] = [_number(teacher and teacher[key]) for teacher in teachers]
    columns["teacher is right"] = [f"{teacher['accuracy']:.2%}" if teacher else "" for teacher in teachers]
    kept = {title: cells for title, cells in columns.items() if any(cells)}
    return [tuple(kept), *zip(*kept.values(), strict=True)]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
