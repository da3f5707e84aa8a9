"""The verb `medray report`: the page of one run again, or one page that compares several."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.outputs import add_force, check_new, finite, whole_file
from medray.cli.run_argument import folder_of_run, refuse_credentials
from medray.errors import InputError, printable
from medray.storage import StoragePath

if TYPE_CHECKING:
    from medray.report.comparison import ComparedRun, Difference

PAGE, COMPARISON = "report.html", "compare.html"


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "report",
        help="write the page of a run again, or one page that compares several runs",
        description="Write the page of one run again from the files in its folder, or one page that compares several runs. "
        "Each page is one HTML file that opens offline. The runs may be finished, stopped, failed or still running.",
    )
    verb.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run (<run.storage>/<run.name> or s3://...), or its config; the last part of a folder may be a "
        "pattern with *, such as 's3://bucket/runs/rank-*'",
    )
    verb.add_argument(
        "--to",
        metavar="FILE",
        help=f"file to write; default: {PAGE} in the run's folder, or {COMPARISON} here for several runs",
    )
    add_force(verb, "the file of --to or compare.html")
    verb.add_argument("--json", action="store_true", help="print the numbers of the page as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    folders = _folders(arguments.runs)
    several = len(folders) > 1
    to = arguments.to or (COMPARISON if several else None)
    if to is not None:
        _check_target(to, "--to" if arguments.to else None, force=arguments.force)
    from medray.report.comparison import comparison_numbers, comparison_page
    from medray.train.run_folder.pages import compared, page_of
    from medray.train.run_folder.record import read_record

    if several:
        runs, differing = _compared(folders)
        page = comparison_page(runs, differing)
    else:
        record = read_record(folders[0])
        page = page_of(record)
        runs, differing = [compared(record, record.folder.name)], []
    target = _written(page, to, folders[0], "--to" if arguments.to else None)
    if arguments.json:
        print(json.dumps(finite({"page": target} | comparison_numbers(runs, differing))))
    else:
        _show(runs, target)
    return 0


def _folders(runs: Sequence[str]) -> list[StoragePath]:
    """Return the folders of the named runs, each once. Raises InputError if one is not the folder of a run."""
    from medray.report.comparison import MOST_RUNS

    found: dict[str, StoragePath] = {}
    for text in runs:
        for folder in _named(text):
            if isinstance(folder, Path):
                folder = folder.resolve()  # "." has no name, and one run may be named in two ways
            found.setdefault(str(folder), folder)
        if len(found) > MOST_RUNS:
            raise InputError(
                f"more than {MOST_RUNS} runs are too many for one page",
                key="RUN",
                fix="name fewer runs, such as the best ones",
            )
    if len(found) < len(runs) and len(found) == 1:
        raise InputError(
            "all arguments name the same run",
            key="RUN",
            value=runs[0][:200],
            fix="name at least two different runs to compare them, or name this run once",
        )
    return list(found.values())


def _named(text: str) -> Iterator[StoragePath]:
    """Yield the folders of runs that one argument names. A pattern leaves out folders that are not those of runs."""
    refuse_credentials(text)
    folder = storage.at(text)
    if not any(mark in folder.name for mark in "*?[") or (isinstance(folder, Path) and folder.exists()):
        yield folder_of_run(argparse.Namespace(run_folder=text, overrides=[]))
        return
    from medray.train.run_folder.record import is_run

    storage.check_reachable(folder.parent)
    named: dict[str, StoragePath] = {each.name: each for each in folder.parent.glob(folder.name)}
    matching = [named[name] for name in sorted(named) if is_run(named[name])]
    if not matching:
        raise InputError(
            "no folder of a run matches this pattern",
            key="RUN",
            value=text[:200],
            fix=f"check the pattern; the runs are in {folder.parent}",
        )
    yield from matching


def _compared(folders: Sequence[StoragePath]) -> tuple[list[ComparedRun], list[Difference]]:
    """Read the runs one after the other: only one has all of its steps in memory."""
    from medray.train.run_folder.pages import compared, differences, labels
    from medray.train.run_folder.record import read_record

    names = labels(folders)
    runs, configs = [], []
    for folder, label in zip(folders, names, strict=True):
        record = read_record(folder, data=False)
        runs.append(compared(record, label))
        configs.append(record.config)
    return runs, differences(configs)


def _check_target(to: str, key: str | None, *, force: bool) -> None:
    refuse_credentials(to, "--to")
    if not storage.is_remote(to):
        check_new(to, key, force=force)
        return
    target = storage.at(to)
    storage.check_reachable(target)
    if target.is_dir() or (target.exists() and not force):
        raise InputError(
            "this exists already",
            file=target,
            key=key,
            fix="name another file, or add --force to overwrite a file",
        )


def _written(page: str, to: str | None, folder: StoragePath, key: str | None) -> str:
    """Write the page and return where it is. to: None for report.html in the run's folder."""
    if to is not None and not storage.is_remote(to):
        with whole_file(to, key) as stream:
            stream.write(page)
        return to
    target = folder / PAGE if to is None else storage.at(to)
    try:
        storage.write(target, page)
    except OSError as error:
        raise InputError(
            f"cannot write this file ({storage.summary(error)})",
            file=target,
            key=key,
            fix="use --to FILE with a file in a folder that you may write to",
        ) from None
    return str(target)


def _show(runs: Sequence[ComparedRun], target: str) -> None:
    from medray.report.console import Console, number

    rows = []
    for each in runs:
        loss = f", loss {number(each.train_loss_last)}" if each.train_loss_last is not None else ""
        rows.append((each.label, f"{each.status}, step {each.steps:,}{loss}"))
    rows.append(("page", target))
    console = Console(sys.stdout)
    console.table("report", [(printable(name), printable(text)) for name, text in rows])
