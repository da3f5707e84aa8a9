"""The state of a search, read from its folder: from another terminal, from another machine, or after its end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from medray.config.loading.yaml_text import NotYamlError, parse
from medray.config.tune import TuneConfig
from medray.errors import InputError
from medray.report.console import number
from medray.storage import StoragePath
from medray.tracking import STEPS_FILE
from medray.tracking.step_file import read_records
from medray.train.run_folder import files
from medray.tune.claim import NOTES
from medray.tune.points import label
from medray.tune.results import counts, ranked
from medray.tune.trials import Trial, TrialFiles


@dataclass(frozen=True)
class SearchStatus:
    """The trials of a search. metric: None if the config in the folder cannot be read. best: number of a trial."""

    trials: tuple[Trial, ...]
    metric: str | None
    best: int | None

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of a table for the console."""
        named = {"begun": "running or waiting"}
        found = counts(self.trials)
        rows: list[tuple[str, ...]] = [
            (
                "trials",
                ", ".join(f"{count} {named.get(state, state)}" for state, count in sorted(found.items()))
                or "none",
            )
        ]
        for trial in self.trials:
            if trial.number == self.best:
                value = f"{self.metric} {number(trial.value)}"
                rows.append(("best", f"trial {trial.number}, {value}: {label(trial.values)}"))
        rows += [
            (f"trial {trial.number}", f"step {trial.step:,}: {label(trial.values)}")
            for trial in self.trials
            if trial.state == "begun"
        ]
        return rows


def read(folder: StoragePath) -> SearchStatus | None:
    """Return the state of the search in a folder; None if the folder is not that of a search.

    Raises InputError if the file of a trial is damaged, OSError if storage cannot be reached.
    """
    if not (folder / NOTES).exists():
        return None
    trials = TrialFiles(folder).read()
    tune = _tune(folder)
    ranking = ranked(trials, lower=tune.lower_is_better) if tune else []
    shown = tuple(_with_step(folder, trial) if trial.state == "begun" else trial for trial in trials.values())
    return SearchStatus(shown, tune.metric if tune else None, ranking[0].done[0].number if ranking else None)


def _tune(folder: StoragePath) -> TuneConfig | None:
    with suppress(OSError, ValueError, InputError, NotYamlError, ValidationError):
        tree = parse(files.read_config(folder / files.CONFIG))
        if isinstance(tree, dict) and isinstance(tree.get("tune"), dict):
            return TuneConfig.model_validate(tree["tune"])
    return None


def _with_step(folder: StoragePath, trial: Trial) -> Trial:
    """Return a trial that has not ended with its newest step."""
    with suppress(OSError, InputError):
        steps = read_records(folder.with_name(f"{folder.name}.{trial.label}") / STEPS_FILE)
        return trial.model_copy(update={"step": int(steps[-1]["step"])}) if steps else trial
    return trial
