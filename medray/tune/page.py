"""The report page of a search: its numbers are collected here, and drawn in `report.search_page`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from medray import storage
from medray.config import Config
from medray.errors import InputError
from medray.report.search_page import write_search_report
from medray.storage import StoragePath
from medray.tracking import EVALS_FILE
from medray.tracking.step_file import read_records
from medray.train.run_folder.files import LARGEST_CONFIG, folder_of
from medray.tune.checks import tune_of
from medray.tune.importance import importances
from medray.tune.results import BEST
from medray.tune.state import configurations
from medray.tune.trials import Trial

REPORT = "report.html"


def write_page(config: Config, trials: Mapping[int, Trial], summary: dict[str, Any]) -> None:
    """Write report.html to the search's folder. summary: as in summary.json."""
    tune, folder = tune_of(config), folder_of(config)
    complete = [(each.values, each.value) for each in configurations(trials) if each.value is not None]
    shares, by = importances(tune.space, complete)
    best = ""
    with suppress(OSError, InputError, ValueError):
        best = storage.read_bounded(folder / BEST, LARGEST_CONFIG).decode()
    write_search_report(
        folder / REPORT,
        summary=summary,
        logarithmic=frozenset(name for name, draw in tune.space.items() if draw.kind == "loguniform"),
        curves={number: curve(config, trial, tune.metric) for number, trial in trials.items()},
        importances=shares,
        importances_by=by,
        best_yaml=best,
    )


def curve(config: Config, trial: Trial, metric: str) -> list[tuple[float, float]]:
    """Return (percent of the run, value) of each evaluation after the first step; empty where there is none."""
    found: list[tuple[float, float]] = []
    with suppress(OSError, InputError):
        for record in read_records(run_folder(config, trial) / EVALS_FILE):
            value = record.get("metrics", {}).get(metric)
            if record["step"] and trial.steps and isinstance(value, int | float):
                found.append((100.0 * record["step"] / trial.steps, float(value)))
    return found


def run_folder(config: Config, trial: Trial) -> StoragePath:
    """Return the folder of a trial's run."""
    return folder_of(config).with_name(f"{config.run.name}.{trial.label}")
