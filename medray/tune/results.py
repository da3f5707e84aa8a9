"""The result of a search: its ranking, the best config, and which exports are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import pstdev
from typing import Any

from medray import storage
from medray.config import Config, dump
from medray.storage import StoragePath
from medray.train.run_folder import files
from medray.train.run_folder.files import folder_of
from medray.tune.share import Share
from medray.tune.state import Configuration, configurations
from medray.tune.trials import Trial, trial_config

BEST = "best.yaml"


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    summary: the content of summary.json: the summary of the best trial, and with the key `search` that of the search.
    """

    folder: StoragePath
    summary: dict[str, Any]


def ranked(trials: Mapping[int, Trial], *, lower: bool) -> list[Configuration]:
    """Return the complete configurations, best first; of equal ones, the one that was tried first comes first.

    A configuration is complete if all of its seeds are done. If none is complete, those with some seeds done are returned.
    """
    found = [each for each in configurations(trials) if each.value is not None]
    whole = [each for each in found if len(each.done) == len(each.trials)]
    sign = 1 if lower else -1
    return sorted(whole or found, key=lambda each: (sign * (each.value or 0.0), each.number))


def ties(ranking: list[Configuration]) -> list[int]:
    """Return the numbers of configurations that are exactly as good as the best."""
    return [each.number for each in ranking[1:] if each.value == ranking[0].value]


def best_config(search: Config, share: Share, trial: Trial) -> Config:
    """Return the config that repeats a trial as a run of its own, with the workers, CPUs and threads of the search."""
    shown = search.tracking.run_name
    names = {"run.name": f"{search.run.name}.best"} | (
        {"tracking.run_name": f"{shown}.best"} if shown is not None else {}
    )
    return trial_config(search, share, trial).override(names)


def write_best(search: Config, share: Share, trial: Trial, value: float | None) -> None:
    """Write best.yaml to the search's folder."""
    metric = search.tune.metric if search.tune else "loss"
    head = (
        f"# The best configuration of the search {search.run.name}: trial {trial.number}, {metric} {value}.\n"
        "# Repeat it with medray train; the same machine and number of workers give the same numbers.\n"
    )
    storage.write(folder_of(search) / BEST, head + dump(best_config(search, share, trial)))


def to_remove(trials: Mapping[int, Trial], keep: int | None, *, lower: bool) -> list[Trial]:
    """Return the ended trials whose exports and checkpoints are not kept. keep: number of best trials, None for all."""
    if keep is None:
        return []
    done = [trial for trial in trials.values() if trial.state == "done" and trial.value is not None]
    sign = 1 if lower else -1
    best = sorted(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))[:keep]
    kept = {trial.number for trial in best}
    if ranking := ranked(trials, lower=lower):
        kept.add(ranking[0].done[0].number)
    return [
        trial
        for number, trial in sorted(trials.items())
        if trial.kept and trial.state in ("done", "stopped") and number not in kept
    ]


def remove_weights(search: Config, trial: Trial) -> None:
    """Remove the export and the checkpoints of a trial; its records, report and predictions stay."""
    folder = folder_of(search)
    run = folder.with_name(f"{search.run.name}.{trial.label}")
    for name in ("export", "checkpoints"):
        storage.remove_tree(run / name)


def summarize(
    search: Config,
    trials: Mapping[int, Trial],
    *,
    status: str,
    seconds: float,
    gpu_hours: float,
    ended_by: str | None,
) -> dict[str, Any]:
    """Write the summary of a search and return it.

    status: done, stopped or failed. ended_by: the budget that ended the search, or None.
    """
    assert search.tune is not None
    tune, folder = search.tune, folder_of(search)
    ranking = ranked(trials, lower=tune.lower_is_better)
    summary: dict[str, Any] = {"steps": 0, "eval": {}}
    best: dict[str, Any] | None = None
    if ranking:
        first = ranking[0]
        trial = first.done[0]
        run = folder.with_name(f"{search.run.name}.{trial.label}")
        summary = files.read_summary(run) or summary
        best = {
            "configuration": first.number,
            "trial": trial.number,
            "folder": run.name,
            "values": first.values,
            "value": first.value,
            "standard_deviation": spread(first),
            "seeds": [each.seed for each in first.done],
            "ties": ties(ranking),
        }
    summary = summary | {
        "name": search.run.name,
        "status": status,
        "search": {
            "metric": tune.metric,
            "mode": "min" if tune.lower_is_better else "max",
            "searcher": tune.how,
            "scheduler": tune.scheduler,
            "best": best,
            "ended_by": ended_by,
            "seconds": round(seconds, 3),
            "gpu_hours": round(gpu_hours, 6),
            "tokens": sum(trial.tokens for trial in trials.values()),
            "counts": counts(trials.values()),
            "trials": [trial.model_dump() for _, trial in sorted(trials.items())],
        },
    }
    storage.write(folder / files.SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def spread(configuration: Configuration) -> float | None:
    """Return the standard deviation of the values over seeds; None for a single seed."""
    values = [trial.value for trial in configuration.done if trial.value is not None]
    return pstdev(values) if len(values) > 1 else None


def counts(trials: Iterable[Trial]) -> dict[str, int]:
    """Return the number of trials in each state that occurs."""
    found: dict[str, int] = {}
    for trial in trials:
        found[trial.state] = found.get(trial.state, 0) + 1
    return found
