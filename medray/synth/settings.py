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
    storage_path = path_near_file(config.run.storage, path, "run.storage")
    run = config.run.model_copy(update={"storage": storage_path})
    inputs = config.inputs.model_copy(
        update={
            name: tuple(path_near_file(each, path, f"inputs.{name}") for each in getattr(config.inputs, name))
            for name in ("questions", "situations", "chats")
        }
    )
    clean = config.clean.model_copy(
        update={
            name: tuple(path_near_file(each, path, f"clean.{name}") for each in getattr(config.clean, name))
            for name in ("chats", "decontaminate")
        }
    )
    changed: dict[str, object] = {"run": run, "prompts": prompts, "inputs": inputs, "clean": clean}
    if config.backend is not None and config.backend.file is not None:
        file = path_near_file(config.backend.file, path, "backend.file")
        changed["backend"] = config.backend.model_copy(update={"file": file})
    return config.model_copy(update=changed)


def folder_of(config: SynthConfig) -> StoragePath:
    """Return the folder of a synthesis: its requests, state and results."""
    return storage.at(config.run.storage) / config.run.name
