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
DEFAULT_ROWS = 2000  # of a sample: as many as the published short set has


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "import",
        help="bring the files of a published corpus into record form",
        description="Brings the files of a published corpus into record form: a JSONL file a split, rejects.jsonl, "
        "and import.json with counts, hashes and the licence. Nothing is downloaded.",
    )
    verb.add_argument(
        "name", metavar="NAME", help="a corpus, as data.dataset names it; or all that SOURCE holds"
    )
    verb.add_argument("source", metavar="SOURCE", help="folder or URL of the published files")
    verb.add_argument("dest", metavar="DEST", help="folder to write; all: a folder a corpus in it")
    verb.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="a split, may be repeated; without it all that are there",
    )
    verb.add_argument(
        "--label-source",
        choices=("gt", "llm"),
        default="gt",
        help="training labels: gold or the teacher's (gt)",
    )
    verb.add_argument(
        "--teacher", choices=("palm", "gpt", "generic"), help="whose completions; without it the corpus's own"
    )
    verb.add_argument(
        "--pair-join",
        choices=("newline", "eos"),
        help="what joins premise and hypothesis; without it as published",
    )
    verb.add_argument("--eos-token", default="</s>", help="the end token's text, which joins pairs (</s>)")
    verb.add_argument(
        "--legacy-and",
        action="store_true",
        help="read (a) and (b) in a teacher's equations as the published code did",
    )
    verb.add_argument(
        "--version",
        action="append",
        metavar="FAMILY/SET",
        help="a published instruct set with its prompt column, such as gemma/combined_short; may be repeated",
    )
    verb.add_argument("--all", action="store_true", help="all sixteen published instruct sets")
    verb.add_argument(
        "--subset",
        choices=("slices", "sample", "small"),
        help="slices: the published short instruct set; sample: --rows rows, of each source its share; "
        "small: the first 55,000 rows of esnli",
    )
    verb.add_argument("--rows", type=int, help="rows of a sample; without it 2000")
    verb.add_argument("--seed", type=int, help="seed of a sample; without it 0")
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
        places, skipped = _all(source)
        for name, place in places.items():
            folders[name] = target / name
            found[name] = _corpus(arguments, name, place, folders[name])
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
            "there is no such folder", key="SOURCE", value=source, fix="the folder of the published files"
        )
    return source.rstrip("/") or "/"


def _all(source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Folders of the corpora that `source` holds, and why its other folders are skipped."""
    from medray.data.corpora.discover import discover
    from medray.data.corpora.published import CORPORA

    found = discover(source)
    if not found.places:
        folders = ", ".join(dict.fromkeys(each for known in CORPORA.values() for each in known.folders))
        raise InputError(
            "no folder in it is named after a corpus and holds its files",
            key="SOURCE",
            value=source,
            fix=f"folders named {folders}; or import one corpus by its name",
        )
    return found.places, found.skipped


def _check_name(name: str) -> None:
    from medray.data import corpora

    if name != "all" and name not in corpora.NAMES:
        near = difflib.get_close_matches(name.lower(), ("all", *corpora.NAMES), n=1)
        known = f"all, or one of {', '.join(corpora.NAMES)}"
        raise InputError(
            "is no published corpus that medray knows",
            key="NAME",
            value=name,
            fix=f"did you mean {near[0]}? NAME is {known}" if near else known,
        )


def _corpus(arguments: argparse.Namespace, name: str, source: str, target: Path) -> dict[str, Any]:
    from medray.data import corpora
    from medray.data.corpora import importing

    _check_options(arguments, name)
    # Without a single file there, reading train says what was looked for.
    splits = tuple(arguments.split or corpora.splits(name, source) or ("train",))
    for split in splits:
        if split not in corpora.splits(name):
            published = ", ".join(corpora.splits(name))
            raise InputError(f"{name} was published with {published}", key="--split", value=split)
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
    """An option that a corpus has no use for is a mistake, not a wish to pass over."""
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
            raise InputError(f"{name} has no {what}", key=option, fix=f"leave out {option}")


def _versions(arguments: argparse.Namespace, source: str) -> dict[str, Any]:
    from medray.data.corpora import importing, instruct

    if arguments.name not in ("wikidoc", "medquad"):
        raise InputError(
            "versions are made of wikidoc and medquad",
            key="NAME",
            value=arguments.name,
            fix="NAME: medquad, with the files of both in SOURCE",
        )
    if arguments.split:
        raise InputError("versions have train alone", key="--split", fix="leave out --split")
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
            "the published slices are always the same 2,000 rows", key=key, fix="--subset sample"
        )
    if seed < 0 or (rows is not None and rows < 1):
        key, value = ("--seed", seed) if seed < 0 else ("--rows", rows)
        raise InputError("is too small", key=key, value=value, fix="--rows 2000 --seed 0")
    return Subset(mode, DEFAULT_ROWS if rows is None else rows, seed)


def show(console: Console, name: str, account: Mapping[str, Any], folder: str) -> None:
    """The table of a corpus's splits, then where rejected rows are named, what was left out, and warnings.

    folder: where it was written. A column that no split has a number for is absent.
    """
    console.table(f"{name}, written to {folder}", _table(account["splits"], "rows written"))
    if account["sources"]:
        console.table("made of", _table(account["sources"], "usable rows"))
    counted = {**account["splits"], **account["sources"]}
    for split, found in counted.items():
        if found["rejected"]:
            console.phase(
                "rejected", f"{split}: {found['rejected']:,}, each with its reason in {folder}/rejects.jsonl"
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
