from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from medray.cli.cluster import cluster_address
from medray.errors import MedrayError, StoppedError
from medray.train.stop import FILE as STOP_FILE
from medray.train.stop import StopSwitch, begin

if TYPE_CHECKING:
    from medray.config import Config
    from medray.report.run_log import RunLog
    from medray.storage import StoragePath
    from medray.train import RunResult

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
AFTER_STEP = "stopping after the current step, which is saved first"


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "train",
        help="run a config: data, training, checkpoints, export, evaluation",
        description="Run a config. Repeat the command to resume a run that was stopped; a finished run is not repeated.",
    )
    verb.add_argument("config", help="YAML file")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument(
        "--overwrite",
        action="store_true",
        help="start from the beginning; an existing run of this name is moved to <name>.old-1, -2, ...",
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="start a run that by computation does not fit into the memory of the nodes",
    )
    verb.add_argument("--json", action="store_true", help="print the summary as one JSON object at the end")
    # Launchers set this to the time of the submission, in seconds since the epoch. A stop that was requested later, while
    # the job was in its queue, is obeyed; an earlier one is ignored.
    verb.add_argument("--launched-at", type=float, default=None, help=argparse.SUPPRESS)
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config import read
    from medray.stages import check
    from medray.train.checks import refuse_search

    config = read(arguments.config, arguments.overrides)
    refuse_search(config)
    address = cluster_address(config)
    check(config, elsewhere=address is not None, model=False)
    stop = StopSwitch()
    with stoppable(stop):  # before the imports, which take seconds
        return _run(arguments, config, address, stop)


def _run(arguments: argparse.Namespace, config: Config, address: str | None, stop: StopSwitch) -> int:
    from medray.cli.cluster import before_import
    from medray.cli.summary import show
    from medray.report.console import Console
    from medray.report.run_log import Consoles, RunLog
    from medray.stages import finished_whole, last_stage, move_aside_whole
    from medray.stages.parent_run import send_unsent
    from medray.train.run_folder.files import folder_of

    log = RunLog(folder_of(config), command=f"medray train {arguments.config}")
    console = Consoles(Console(sys.stderr), Console(log, interactive=False))
    console.phase("start", f"{config.run.name} of {arguments.config}")
    if arguments.overwrite:
        aside = move_aside_whole(config)
        console.phase(
            "overwrite",
            f"the old run is now {aside}"
            if aside
            else "--overwrite had nothing to move: there was no run with this name",
        )
    result = finished_whole(config)
    if result is None:
        before_import(address)
        try:
            result = _train(config, arguments.config, address, console, log, stop, arguments)
        except MedrayError as error:
            log.write(f"medray: {error}\n")
            raise
        finally:
            log.close()
    else:
        console.phase(
            "done",
            f"{config.run.name} was finished before, after {result.summary['steps']} steps; use --overwrite to start from "
            "the beginning",
        )
        send_unsent(config, result, console.phase, arguments.config)
    shown = last_stage(config, result)
    show(console, config, shown, ["medray", "train", arguments.config, *arguments.overrides])
    if arguments.json:
        print(json.dumps(result.summary))
    return stop.exit_code if result.summary["status"] == "stopped" else 0


def _train(
    config: Config,
    config_file: str,
    address: str | None,
    console: Any,
    log: RunLog,
    stop: StopSwitch,
    arguments: argparse.Namespace,
) -> RunResult:
    from medray.cli.cluster import connect, disconnect
    from medray.train.run_folder import lock
    from medray.train.run_folder.files import folder_of

    # The driver takes the lock too; here it refuses a second start before that starts its own cluster.
    folder = folder_of(config)
    with lock.held(folder, lambda text: console.phase("lock", text)):
        log.begin()
        hear_request(folder, arguments.launched_at, stop)
        from medray import stages, train
        from medray.train.checks import check_weights_and_names, describe_model
        from medray.train.side_thread import SideThread

        # Before torch and Ray are imported, which takes seconds.
        models = [describe_model(each) for each in stages.checkable_configs(config)]
        refuse_stopped(stop)
        import ray  # noqa: F401  # completely, before two threads import

        # The check imports torch and transformers, which takes as long as the start of a cluster, so it runs in another
        # thread. Ray gets the main thread, because it forks, and ends its client in the thread that started it.
        def check_all() -> None:
            for each, model in zip(stages.checkable_configs(config), models, strict=True):
                check_weights_and_names(each, model)

        checked = SideThread(check_all)
        try:
            connect(address)
            on_signals(stop)  # again, because Ray has replaced the handler of SIGTERM
            checked.result()
            refuse_stopped(stop)
            if config.stages:
                return stages.run(
                    config, console=console, stop=stop, config_file=config_file, force=arguments.force
                )
            return train.run(
                config,
                console=console,
                stop=stop,
                config_file=config_file,
                checked=models[0],
                force=arguments.force,
            )
        finally:
            disconnect()


def hear_request(folder: StoragePath, launched_at: float | None, stop: StopSwitch) -> None:
    try:
        asked = begin(folder, launched_at)
    except OSError as error:
        from medray.storage import unreachable

        raise unreachable(folder, error) from None
    if asked is not None:
        stop.on_request = True
        raise StoppedError(
            f"a stop was requested while this start waited in its queue, {datetime.fromtimestamp(asked):at %Y-%m-%d %H:%M:%S} "
            f"({folder / STOP_FILE}). Fix: launch the config again to resume"
        )
    refuse_stopped(stop)


def refuse_stopped(stop: StopSwitch) -> None:
    if stop.reason:
        raise StoppedError(
            "the command was stopped before the run had begun. Fix: run the same command again"
        )


@contextmanager
def stoppable(stop: StopSwitch, doing: str = AFTER_STEP) -> Iterator[None]:
    """Let signals set `stop` in the block, and give a StoppedError the exit code of what stopped it.

    doing: what happens after a signal, for a message.
    """
    restore = on_signals(stop, doing)
    try:
        yield
    except StoppedError as error:
        error.exit_code = stop.exit_code
        raise
    finally:
        restore()


def on_signals(stop: StopSwitch, doing: str = AFTER_STEP) -> Any:
    """Install signal handlers. The first signal asks to save and end; a second Ctrl-C ends at once with exit code 1."""

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and stop.signal == signal.SIGINT:
            os._exit(1)
        stop.request(number)
        print(
            f"medray: {signal.Signals(number).name}: {doing}",
            file=sys.stderr,
        )

    before = {number: signal.signal(number, handler) for number in SIGNALS}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    return restore
