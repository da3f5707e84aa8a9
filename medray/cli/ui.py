from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from medray.errors import InputError


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser("ui", help="open the tracking page of a run's storage",
                            description="Serves the MLflow page of a run on this machine until Ctrl-C.")
    verb.add_argument("run_folder", help="folder of a run")
    verb.add_argument("--port", type=int, default=5000, help="5000")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.run_folder)
    try:
        uri = json.loads((folder / "mlflow_run.json").read_text())["uri"]
    except (OSError, ValueError, KeyError):
        raise InputError("no MLflow run was recorded here", file=folder,
                         mend="give the folder of a run with tracking.enabled: true") from None
    if not uri.startswith("sqlite:"):
        print(f"this run is tracked at {uri}: open that page", file=sys.stderr)
        return 0
    # Ten processes and 1.8 GB otherwise, for jobs that nobody runs here.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    print(f"http://127.0.0.1:{arguments.port} shows {uri} (Ctrl-C ends it)", file=sys.stderr)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port",
               str(arguments.port), "--workers", "1"]
    os.execv(sys.executable, command)
