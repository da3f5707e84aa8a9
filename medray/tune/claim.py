"""The folder of a search, and what a search keeps between its starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medray import storage
from medray.config import Config, dump
from medray.config.tune import TuneConfig
from medray.errors import InputError
from medray.storage import StoragePath
from medray.train.run_folder import changes, files
from medray.train.run_folder.files import folder_of
from medray.tune.share import Share

NOTES = "search.json"
_FIX = "restore the file, use another run.name, or start from the beginning with --overwrite"
# Sections and keys that may differ between two starts of a search. All others decide what its trials compute.
_FREE_SECTIONS = ("cluster", "launch", "tracking")
_FREE_KEYS = (
    "run.storage",
    "run.name",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.save_patience_minutes",
)


class Notes(BaseModel):
    """The notes that a search keeps between its starts: the share of each trial, and the seconds that are used."""

    model_config = ConfigDict(strict=True, extra="ignore")

    workers: int = Field(ge=1)
    cpus: float = Field(gt=0)
    gpus: int = Field(ge=0)
    threads: int = Field(ge=1)
    seconds: float = Field(0.0, ge=0)

    def share(self, concurrent: int) -> Share:
        return Share(
            concurrent=concurrent, workers=self.workers, cpus=self.cpus, gpus=self.gpus, threads=self.threads
        )


def claim(config: Config, say: Callable[[str], None]) -> Notes | None:
    """Write the config of a search to its folder, and return the notes of its earlier starts; None at the first start.

    say: takes a note about keys that have changed. Raises InputError if a key has changed that decides what trials compute.
    """
    folder = folder_of(config)
    storage.make_private(folder)
    files.check_files(folder)
    notes = read_notes(folder)
    file = folder / files.CONFIG
    if notes is not None and file.exists():
        for note in check_same(config, file):
            say(note)
    storage.write(file, dump(config), durable=True)
    return notes


def read_notes(folder: StoragePath) -> Notes | None:
    """Return the notes in a search's folder; None without. Raises InputError if the file is damaged."""
    file = folder / NOTES
    try:
        return Notes.model_validate(storage.read_json(file, fix=_FIX))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{where[:80]} is missing or of the wrong type", file=file, fix=_FIX) from None


def write_notes(folder: StoragePath, share: Share, seconds: float) -> None:
    """Write the notes of a search."""
    notes = {name: value for name, value in asdict(share).items() if name != "concurrent"}
    storage.write(folder / NOTES, json.dumps(notes | {"seconds": round(seconds, 3)}) + "\n")


def check_same(config: Config, file: StoragePath) -> tuple[str, ...]:
    """Return sentences about changed keys that a search accepts. file: config.yaml of the search.

    Raises InputError if another key has changed: the trials so far could not be compared with the next ones.
    """
    then, now = changes.config_at_start(file), changes.leaves(config.model_dump(mode="json"))
    then.pop("tune", None)  # the default of a config without a search
    absent = changes.ABSENT
    changed = [key for key in sorted({*then, *now}) if then.get(key, absent) != now.get(key, absent)]
    refused = [key for key in changed if not _free(key)]
    if refused:
        raise InputError(
            f"the search {config.run.name} has trials with another value of {', '.join(refused[:5])}",
            key=refused[0],
            fix=f"restore the old value ({file} has it), use another run.name, or start from the beginning with --overwrite",
        )
    shares = [key for key in changed if key in changes.SHARES]
    return (f"{', '.join(shares)}: every trial keeps what the search began with",) if shares else ()


def kept(notes: Notes | None, config: Config) -> Config:
    """Return the config with the workers, CPUs and threads that the search began with."""
    return config if notes is None else config.override(notes.share(1).keys())


def _free(key: str) -> bool:
    section, _, name = key.partition(".")
    if section == "tune":
        field: Any = TuneConfig.model_fields.get(name)
        return field is not None and bool((field.json_schema_extra or {}).get("resumable"))
    return section in _FREE_SECTIONS or key in _FREE_KEYS
