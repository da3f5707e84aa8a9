"""The action `medray judge run`, which `medray judge CONFIG` is short for."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.errors import InputError, MedrayError, RunFailedError

if TYPE_CHECKING:
    from medray.config.judge import JudgeConfig
    from medray.evaluate.judge.asking import Asked, Panel
    from medray.report.console import Console


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "run",
        help="ask both judges, and write verdicts, queue and report",
        description="Ask both judges for the verdicts that are missing, merge what people filled into the queue, and write "
        "results, queue and report into the folder of the config. Run it again to continue.",
    )
    verb.add_argument("config", help="YAML file, such as configs/judge.yaml")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print the number of requests and their cost; send nothing",
    )
    verb.add_argument("--json", action="store_true", help="print the report as one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.judge import read_judge
    from medray.evaluate.judge.asking import Panel
    from medray.evaluate.judge.items import read_items
    from medray.evaluate.judge.state import State, locked
    from medray.report.console import Console

    config = read_judge(arguments.config, arguments.overrides)
    if storage.is_remote(config.folder):
        raise InputError(
            "the folder of a review must be on a file system, where several people can lock its files",
            key="folder",
            value=config.folder,
            fix="use a local or shared folder",
        )
    items = read_items(config.items, config.columns)
    folder = Path(config.folder)
    console = Console(sys.stderr if arguments.json else sys.stdout)
    if arguments.dry_run:
        panel = Panel(config, items, State(folder))
        panel.check_allowed()
        _show_plan(console, panel)
        return 0
    _make(folder)
    try:
        with locked(folder / ".judge.lock", wait=False):
            return _run(config, Panel(config, items, State(folder)), folder, console, arguments)
    except BlockingIOError:
        raise InputError(
            "another medray judge is writing into this folder",
            file=folder,
            key="folder",
            fix="wait for its end, or set another folder",
        ) from None


def _make(folder: Path) -> None:
    try:
        storage.make_private(folder)
    except OSError as error:
        raise InputError(
            f"cannot be created ({storage.summary(error)})",
            key="folder",
            value=str(folder),
            fix="use a folder that you may write to",
        ) from None


def _run(
    config: JudgeConfig, panel: Panel, folder: Path, console: Console, arguments: argparse.Namespace
) -> int:
    from medray.backends.price import Budget
    from medray.evaluate.judge.asking import Asked
    from medray.evaluate.judge.queue_files import finish, merge
    from medray.evaluate.judge.rows import row_of
    from medray.evaluate.local_backend import local_backend

    state = panel.state
    merge(folder, state)
    panel.check_allowed()
    _show_plan(console, panel)
    budget = Budget(config.budget, state.cost)
    backends = panel.backends(budget, local_backend)
    error, asked = None, Asked()
    try:
        asked = panel.ask(
            backends, lambda done, of: print(f"judged {done:,} of {of:,} items", file=sys.stderr)
        )
    except MedrayError as stopped:  # verdicts that have arrived are kept, and shown before the error
        error = stopped
    uncertain = sum(backend.usage.uncertain_cost for backend in backends.values())
    if uncertain:
        state.add({"uncertain_cost": uncertain})
    names = [judge.name for judge in config.judges]
    rows = [row_of(item, {name: panel.judged(name, item) for name in names}, state) for item in panel.items]
    numbers = finish(folder, rows, state)
    numbers["cost"] = state.cost
    numbers["requests"] = {name: backend.usage.to_json() for name, backend in backends.items()}
    show(console, numbers, str(folder))
    if error is not None:
        raise error
    if arguments.json:
        print(json.dumps(numbers))
    if pending := numbers["states"]["pending"]:
        raise RunFailedError(f"{pending:,} items have no verdict of both judges{_reasons(asked)}\n  Fix: run the command again")  # fmt: skip
    return 0


def _reasons(asked: Asked) -> str:
    found = [
        f"{judge}: {reason} ({count:,} times)"
        for judge, reasons in asked.failures.items()
        for reason, count in reasons.most_common(2)
    ]
    return f" ({'; '.join(found)})" if found else ""


def _show_plan(console: Console, panel: Panel) -> None:
    rows: list[tuple[str, ...]] = [("items", f"{len(panel.items):,}")]
    for judge in panel.config.judges:
        found = panel.estimates()[judge.name]
        cost = f", cost at most {found.most_cost:,.4g}" if judge.price else ""
        where = f" at {judge.base_url}" if judge.base_url else ""
        rows.append(
            (
                judge.name,
                f"{judge.type} {judge.model or judge.rule or ''}{where}: {found.requests:,} requests, about "
                f"{found.prompt_tokens:,} tokens of prompts{cost}",
            )
        )
    console.table("judge", rows)


def show(console: Console, numbers: dict[str, Any], folder: str) -> None:
    """Print the figures of a review."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    states = numbers["states"]
    rows: list[tuple[str, ...]] = [
        ("items", f"{numbers['items']:,}"),
        *((state, f"{count:,}") for state, count in states.items()),
        ("agreement", percent(numbers["agreement_rate"])),
        ("Cohen's kappa", "-" if numbers["kappa"] is None else f"{numbers['kappa']:.3f}"),
        ("decided by people", percent(numbers["decided_by_people"])),
    ]
    for judge, counts in numbers["judges"].items():
        rows.append((f"{judge}", ", ".join(f"{word} {count:,}" for word, count in counts.items() if count)))
    for path, name in (("judges", "final by agreement"), ("person", "final by a person")):
        found = numbers["paths"][path]
        if found["items"]:
            accuracy = f"; right {percent(found['accuracy'])} of {found['with_gold']:,} with gold" if found["with_gold"] else ""  # fmt: skip
            rows.append((name, f"correct {found['correct']:,}, partially {found['partially_correct']:,}, "
                         f"incorrect {found['incorrect']:,}{accuracy}"))  # fmt: skip
    if numbers.get("cost"):
        rows.append(("cost of all starts", f"{numbers['cost']:,.4g}"))
    rows.append(("folder", folder))
    if states["disputed"]:
        rows.append(("to decide", f"medray judge review {folder}, or fill human_verdict in queue.csv"))
    console.table("review", rows)
