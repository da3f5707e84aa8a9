"""An earlier search of the same name: it is finished, or it can be moved aside. Needs no cluster."""

from __future__ import annotations

import re
from typing import Any

from medray import storage
from medray.config import Config
from medray.errors import InputError
from medray.storage import StoragePath
from medray.train.run_folder import earlier_run, files
from medray.train.run_folder.files import folder_of
from medray.tune import claim
from medray.tune.checks import DEFAULT_TRIALS, known_points, tune_of
from medray.tune.results import SearchResult
from medray.tune.trials import TrialFiles


def finished(config: Config) -> SearchResult | None:
    """Return the result of a search that has nothing left to do; None otherwise. Needs no cluster.

    Raises InputError if a key that decides what trials compute has changed.
    """
    folder = folder_of(config)
    summary = read_summary(folder)
    if summary is None or summary.get("status") != "done" or trials_left(config):
        return None
    claim.check_same(config, folder / files.CONFIG)
    return SearchResult(folder, summary)


def read_summary(folder: StoragePath) -> dict[str, Any] | None:
    """Return the summary of a search; None if there is none that can be read."""
    try:
        summary = files.read_summary(folder)
    except (OSError, InputError):
        return None
    return summary if summary and isinstance(summary.get("search"), dict) else None


def trials_left(config: Config) -> int:
    """Return how many trials have not ended or not begun. A space of lists may turn out to have fewer."""
    tune_config = tune_of(config)
    known = TrialFiles(folder_of(config)).read()
    points = known_points(config)
    planned = (len(points) or tune_config.trials or DEFAULT_TRIALS) * tune_config.seeds
    ended = sum(trial.state != "begun" for trial in known.values())
    return max(planned, len(known)) - ended


def move_aside(config: Config) -> StoragePath | None:
    """Move a search of this name out of the way, and each of its trials. Returns its new folder, None without one.

    Raises InputError while the search or one of its trials is alive.
    """
    stored, name = storage.at(config.run.storage), config.run.name
    trials = [
        path.name
        for path in stored.glob(f"{name}.trial-*")
        if re.fullmatch(r"trial-\d{4,}", path.name.removeprefix(f"{name}."))
    ]
    for trial in sorted(trials):
        earlier_run.move_aside(config.override({"run.name": trial}))
    return earlier_run.move_aside(config)
