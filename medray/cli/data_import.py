from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from medray.errors import InputError

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
    source = _source(arguments.source)
    if arguments.version or arguments.all:
        found = {"versions": _versions(arguments, source)}
    else:
        found = {
            name: _corpus(arguments, name, place, target)
            for name, (place, target) in _names(arguments, source).items()
        }
    for name, account in found.items():
        _show(name, account)
    if arguments.json:
        print(json.dumps(found))
    return 0


def _source(source: str) -> str:
    if "://" not in source and not Path(source).expanduser().is_dir():
        raise InputError(
            "there is no such folder", key="SOURCE", value=source, mend="the folder of the published files"
        )
    return source.rstrip("/") or "/"


def _names(arguments: argparse.Namespace, source: str) -> dict[str, tuple[str, Path]]:
    """Corpora to import, each with the folder of its files and the one to write."""
    from medray.data import corpora
    from medray.data.corpora.published import CORPORA

    name, target = arguments.name, Path(arguments.dest)
    if name in corpora.NAMES:
        return {name: (source, target)}
    if name != "all":
        known = f"all, or one of {', '.join(corpora.NAMES)}"
        raise InputError("is no published corpus that medray knows", key="NAME", value=name, mend=known)
    # Beside the folders of many corpora a "train.json" could be anyone's: each is looked for in its own alone.
    there: dict[str, tuple[str, Path]] = {}
    for each, published in CORPORA.items():
        for folder in published.folders:
            if each not in there and "train" in corpora.splits(each, f"{source}/{folder}"):
                there[each] = (f"{source}/{folder}", target / each)
    if not there:
        folders = ", ".join(dict.fromkeys(each for found in CORPORA.values() for each in found.folders))
        raise InputError(
            "no folder in it is named after a corpus and holds its files",
            key="SOURCE",
            value=source,
            mend=f"folders named {folders}; or import one corpus by its name",
        )
    return there


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
            raise InputError(f"{name} has no {what}", key=option, mend=f"leave out {option}")


def _versions(arguments: argparse.Namespace, source: str) -> dict[str, Any]:
    from medray.data.corpora import importing, instruct

    if arguments.name not in ("wikidoc", "medquad"):
        raise InputError(
            "versions are made of wikidoc and medquad",
            key="NAME",
            value=arguments.name,
            mend="NAME: medquad, with the files of both in SOURCE",
        )
    if arguments.split:
        raise InputError("versions have train alone", key="--split", mend="leave out --split")
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
            "the published slices are always the same 2,000 rows", key=key, mend="--subset sample"
        )
    if seed < 0 or (rows is not None and rows < 1):
        key, value = ("--seed", seed) if seed < 0 else ("--rows", rows)
        raise InputError("is too small", key=key, value=value, mend="--rows 2000 --seed 0")
    return Subset(mode, DEFAULT_ROWS if rows is None else rows, seed)


def _show(name: str, account: dict[str, Any]) -> None:
    from medray.tracking.console import Console

    console = Console(sys.stderr)
    rows: list[tuple[str, ...]] = [
        ("", "rows", "published", "rejected", "left out", "no rationale", "teacher is right")
    ]
    for split, found in account["splits"].items():
        teacher = found["teacher"]
        published, unexplained = (
            "" if found[key] is None else f"{found[key]:,}" for key in ("published", "without_rationale")
        )
        rows.append(
            (
                split,
                f"{found['rows']:,}",
                published,
                f"{found['rejected']:,}",
                f"{sum(found['dropped'].values()):,}",
                unexplained,
                f"{teacher['accuracy']:.2%}" if teacher else "",
            )
        )
    console.table(name, rows)
    for split, found in account["splits"].items():
        for reason, count in found["dropped"].items():
            console.phase("left out", f"{split}: {count:,}, {reason}")
    for warning in account["warnings"]:
        console.phase("warning", warning)
