"""The verb `medray ui`: open the MLflow page of a run."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from medray import storage
from medray.errors import InputError, printable


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "ui",
        help="open the MLflow page of a run",
        description="Serve the MLflow page of a run on this machine until Ctrl-C.",
    )
    verb.add_argument("run_folder", help="folder of a run, <run.storage>/<run.name>")
    verb.add_argument("--port", type=int, default=5000, help="port of the page on this machine (5000)")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    folder = storage.at(arguments.run_folder)
    if not 1 <= arguments.port <= 65535:
        raise InputError(
            "the port must be from 1 to 65535", key="--port", value=arguments.port, fix="use --port 5000"
        )
    try:
        known = storage.read_json(folder / "mlflow_run.json")
        uri, page = known.get("uri"), _page(known)
    except (OSError, InputError):
        uri = page = None
    if not isinstance(uri, str) or page is None:
        raise InputError(
            "this folder has no record of an MLflow run",
            file=folder,
            fix="use the folder of a run with tracking.enabled: true",
        )
    if uri.startswith("sqlite:"):
        if not Path(uri.removeprefix("sqlite:///")).is_file():  # MLflow would create an empty database
            raise InputError(
                f"the MLflow database of this run does not exist: {uri}",
                file=folder,
                fix="move the database back to that path",
            )
        _serve(uri, page, arguments.port)
    web = uri.startswith(("http://", "https://"))
    shown = printable(uri)
    print(
        f"this run is tracked at {shown.rstrip('/') + page if web else shown}: open that page",
        file=sys.stderr,
    )
    return 0


def _page(known: dict[str, Any]) -> str:
    """Return the path of the run's page; "" (the first page) for an older run folder that lacks the experiment's id."""
    run, experiment = str(known.get("run_id")), str(known.get("experiment_id"))
    if re.fullmatch("[0-9a-f]{32}", run) and re.fullmatch("[0-9]{1,20}", experiment):
        return f"/#/experiments/{experiment}/runs/{run}"
    return ""


def _serve(uri: str, page: str, port: int) -> NoReturn:
    """Replace this process by MLflow's server."""
    # Without this, MLflow starts ten processes that use 1.8 GB, for jobs that nobody runs here.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    print(f"http://127.0.0.1:{port}{page} shows this run of {uri} (Ctrl-C ends it)", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    os.execv(sys.executable, command)
