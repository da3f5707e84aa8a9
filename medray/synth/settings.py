"""The config file of `medray synth`, with absolute paths, and the folder of its results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medray import storage
from medray.config.loading.own_file import path_near_file, read_own
from medray.config.synth import SynthConfig
from medray.storage import StoragePath


def read(path: str | Path, overrides: Iterable[str] = ()) -> SynthConfig:
    """Return the config of a file. Relative paths are relative to the file. Raises InputError."""
    config = read_own(SynthConfig, path, overrides)
    prompts = config.prompts
    if prompts.resources is not None:
        found = path_near_file(prompts.resources, path, "prompts.resources")
        prompts = prompts.model_copy(update={"resources": found})
    place = path_near_file(config.run.storage, path, "run.storage")
    run = config.run.model_copy(update={"storage": place})
    return config.model_copy(update={"run": run, "prompts": prompts})


def folder_of(config: SynthConfig) -> StoragePath:
    """Return the folder of a synthesis: its requests, state and results."""
    return storage.at(config.run.storage) / config.run.name
