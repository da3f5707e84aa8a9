"""The record of a search: one file per trial, `<run.name>/trials/0007.json`, written by the search's driver alone.

A file is written before its trial begins and after it has ended, each time as a whole, so that a search that was killed
at any moment knows which trials it has begun, with which values. How far a trial came is in its own run folder.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medray import storage
from medray.config import Config
from medray.config.tune import configured
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tune.share import Share

FOLDER = "trials"
LARGEST_FILE = 256 * 1024  # bytes
State = Literal["begun", "done", "stopped", "failed"]
_FIX = "remove the file to repeat this trial, or start from the beginning with --overwrite"


class Trial(BaseModel):
    """One trial: the run of one configuration with one seed.

    number: counts the trials of the search from 1. configuration: counts its configurations from 1. values: the
    configuration by dotted key. state: `begun` until it has ended, then `done`, `failed`, or `stopped` by the search's
    scheduler or on request. reason: why it failed or was stopped. metrics: those of the exported weights if it is done,
    otherwise of its last evaluation. value: value of tune.metric, None if it is missing or not finite. step: steps
    computed. steps: steps planned. tokens: tokens of all its steps. seconds: duration of all its starts together.
    kept: whether its export and checkpoints still exist.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    number: int = Field(ge=1)
    configuration: int = Field(ge=1)
    seed: int = Field(ge=0)
    values: dict[str, Any]
    state: State = "begun"
    reason: str | None = None
    metrics: dict[str, float | None] = {}
    value: float | None = None
    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    kept: bool = True

    @property
    def label(self) -> str:
        return f"trial-{self.number:04d}"

    @property
    def share(self) -> float:
        """Return the computed share of the run, from 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


class TrialFiles:
    """The files of all trials of a search. folder: the search's folder."""

    def __init__(self, folder: StoragePath) -> None:
        self._folder = folder / FOLDER

    def read(self) -> dict[int, Trial]:
        """Return all trials by their numbers. Raises InputError for a file that is damaged or is not the record of a trial."""
        found = {}
        for path in self._folder.glob("*.json"):
            if re.fullmatch(r"\d{4,}\.json", path.name):
                trial = read_trial(path)
                found[trial.number] = trial
        return dict(sorted(found.items()))

    def write(self, trial: Trial) -> None:
        """Write the file of a trial, so that it survives a power cut."""
        storage.make_private(self._folder)
        storage.write(self.path(trial.number), json.dumps(trial.model_dump(), indent=1) + "\n", durable=True)

    def path(self, number: int) -> StoragePath:
        return self._folder / f"{number:04d}.json"


def read_trial(path: StoragePath) -> Trial:
    """Return the trial in a file. Raises InputError if it is damaged."""
    tree = storage.read_json(path, limit_bytes=LARGEST_FILE, fix=_FIX)
    try:
        trial = Trial.model_validate(tree)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{where[:80]} is missing or of the wrong type", file=path, fix=_FIX) from None
    if path.name != f"{trial.number:04d}.json":
        raise InputError(f"has the number {trial.number}", file=path, fix=_FIX)
    return trial


def trial_config(search: Config, share: Share, trial: Trial) -> Config:
    """Return the config of a trial's run. Raises InputError if its values do not fit together."""
    name = f"{search.run.name}.{trial.label}"
    made = configured(search, trial.values, trial.seed, name)
    shown = search.tracking.run_name
    return made.override(
        share.keys() | ({"tracking.run_name": f"{shown}.{trial.label}"} if shown is not None else {})
    )
