"""The verb `medray tune`: a search over keys of a config."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from medray.cli.cluster import cluster_address
from medray.errors import MedrayError
from medray.train.stop import StopSwitch

if TYPE_CHECKING:
    from medray.config import Config
    from medray.report.run_log import RunLog
    from medray.tune import SearchResult

MOST_ROWS = 10  # trials in the table at the end


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "tune",
        help="search over keys of a config: many runs, and best.yaml",
        description="Search over the keys in the section `tune` of a config. Each trial is a whole run. Repeat the command to "
        "continue a search that was stopped; raise tune.trials to continue a finished one.",
    )
    verb.add_argument("config", help="YAML file with a section tune")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument(
        "--overwrite",
        action="store_true",
        help="start from the beginning; an existing search of this name and its trials are moved to <name>.old-1, -2, ...",
    )
    verb.add_argument("--json", action="store_true", help="print the summary as one JSON object at the end")
    verb.add_argument("--launched-at", type=float, default=None, help=argparse.SUPPRESS)
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.train import stoppable
    from medray.config import read
    from medray.tune import check

    config = read(arguments.config, arguments.overrides)
    address = cluster_address(config)
    check(config, elsewhere=address is not None, model=False)
    stop = StopSwitch()
    with stoppable(stop):  # before the imports, which take seconds
        return _run(arguments, config, address, stop)


def _run(arguments: argparse.Namespace, config: Config, address: str | None, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import
    from medray.report.console import Console
    from medray.report.run_log import Consoles, RunLog
    from medray.train.run_folder.files import folder_of
    from medray.tune.earlier import finished, move_aside
    from medray.tune.parent_run import send_unsent

    log = RunLog(folder_of(config), command=f"medray tune {arguments.config}")
    console = Consoles(Console(sys.stderr), Console(log, interactive=False))
    console.phase("start", f"search {config.run.name} of {arguments.config}")
    if arguments.overwrite:
        aside = move_aside(config)
        console.phase(
            "overwrite",
            f"the old search is now {aside}" if aside else "there was no search with this name",
        )
    result = finished(config)
    if result is None:
        before_import(address)
        try:
            result = _search(config, arguments, address, console, log, stop)
        except MedrayError as error:
            log.write(f"medray: {error}\n")
            raise
        finally:
            log.close()
    else:
        console.phase("done", "the search was finished before; a higher tune.trials continues it")
        send_unsent(config, result.summary, arguments.config, console.phase)
    show(console, config, result, ["medray", "tune", arguments.config, *arguments.overrides])
    if arguments.json:
        print(json.dumps(result.summary))
    return stop.exit_code if result.summary["status"] == "stopped" else 0


def _search(
    config: Config,
    arguments: argparse.Namespace,
    address: str | None,
    console: Any,
    log: RunLog,
    stop: StopSwitch,
) -> SearchResult:
    from medray.cli.cluster import connect, disconnect
    from medray.cli.train import hear_request, on_signals, refuse_stopped
    from medray.train.run_folder import lock
    from medray.train.run_folder.files import folder_of

    # The search takes the lock too; here it refuses a second start before that starts its own cluster.
    folder = folder_of(config)
    with lock.held(folder, lambda text: console.phase("lock", text)):
        log.begin()
        hear_request(folder, arguments.launched_at, stop)
        import ray  # noqa: F401  # completely, before two threads import

        from medray import tune
        from medray.train.side_thread import SideThread

        # The check imports torch and transformers, which takes as long as the start of a cluster.
        checked = SideThread(lambda: tune.check(config, elsewhere=address is not None, data=False))
        try:
            connect(address)
            on_signals(stop)  # again, because Ray has replaced the handler of SIGTERM
            checked.result()
            refuse_stopped(stop)
            return tune.run(config, console=console, stop=stop, config_file=arguments.config)
        finally:
            disconnect()


def show(console: Any, config: Config, result: SearchResult, command: list[str]) -> None:
    """Print the best trials of a search, and the next commands. command: the words of the current command."""
    from medray.report.console import duration, number
    from medray.tracking.mlflow_names import warnings_of
    from medray.tune.points import label

    summary, search = result.summary, result.summary["search"]
    trials = [trial for trial in search["trials"] if trial["state"] == "done" and trial["value"] is not None]
    trials.sort(
        key=lambda trial: (trial["value"] if search["mode"] == "min" else -trial["value"], trial["number"])
    )
    rows: list[tuple[str, ...]] = [("trial", search["metric"], "values")]
    rows += [
        (str(trial["number"]), number(trial["value"]), label(trial["values"])) for trial in trials[:MOST_ROWS]
    ]
    if trials:
        console.table("best trials", rows)
    words = {"begun": "not ended"}
    counted = ", ".join(
        f"{count} {words.get(state, state)}" for state, count in sorted(search["counts"].items())
    )
    facts: list[tuple[str, ...]] = [
        ("status", summary["status"] + (f" by tune.{search['ended_by']}" if search["ended_by"] else "")),
        ("trials", counted or "none"),
        ("time", duration(search["seconds"])),
        ("folder", str(result.folder)),
    ]
    best = search["best"]
    if best and best["ties"]:
        facts.insert(2, ("ties", f"configurations {', '.join(map(str, best['ties']))} are exactly as good"))
    console.table("search", facts)
    if best and (found := warnings_of(summary)):
        title = f"WARNING: check the model of trial {best['trial']} before you use it"
        console.table(title, [(text,) for _, text in found])
    following: list[tuple[str, ...]] = []
    if summary["status"] == "stopped":
        following.append(("continue", shlex.join(command)))
    if best:
        following.append(("train the best", f"medray train {shlex.quote(str(result.folder / 'best.yaml'))}"))
    console.table("next", following)
