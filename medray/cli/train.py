from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from medray.config.check import check, check_local_workers
from medray.config.load import load

STOP_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser("train", help="run a config: data, training, checkpoints, export, evaluation",
                            description="Runs a config. Run again, it resumes or says that it is done.")
    verb.add_argument("config", help="YAML file")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, later ones win")
    verb.add_argument("--json", action="store_true", help="print the summary as one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config, arguments.overrides)
    check(config)
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    if not address:
        check_local_workers(config, os.cpu_count() or 1)

    from medray.cli.cluster import before_import, connect, disconnect
    from medray.tracking.console import Console

    console = Console(sys.stderr)
    console.phase("start", f"{config.run.name} of {arguments.config}")
    before_import(address)
    from medray.cli.summary import show
    from medray.train.driver import StopSwitch
    from medray.train.driver import run as train
    from medray.train.outcome import finished

    result = finished(config)
    if result is None:
        stop = StopSwitch()
        restore = _on_signals(stop)
        try:
            connect(address)
            result = train(config, console=console, stop=stop)
        finally:
            disconnect()
            restore()
    else:
        console.phase("done", f"{config.run.name} was finished before; another run.name starts anew")
        stop = StopSwitch()
    show(console, config, result, Path(arguments.config))
    if arguments.json:
        print(json.dumps(result.summary))
    return STOP_CODES[signal.Signals(stop.signal)] if result.summary["status"] == "stopped" and stop.signal else 0


def _on_signals(stop: Any) -> Any:
    """The first signal asks for a checkpoint and an end; a second Ctrl-C ends at once with exit code 1."""

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and stop.signal == signal.SIGINT:
            os._exit(1)
        stop.request(number)
        print(f"medray: {signal.Signals(number).name}: saving and stopping after this step", file=sys.stderr)

    before = {number: signal.signal(number, handler) for number in STOP_CODES}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    return restore
