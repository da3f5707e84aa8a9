"""A run's folder as it is when the run is done: read, never written. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medray import storage
from medray.config import Config
from medray.config.yaml_text import NotYamlError, parse
from medray.errors import InputError
from medray.storage import StoragePath

EXPORT = "export"


@dataclass(frozen=True)
class FinishedRun:
    """summary: as in summary.json. steps: lines of steps.jsonl. tokens: folder of its token shards, None where gone.

    manifests: of each split there what it holds, see data/split_summary. adapter: peft's settings of the exported
    adapter, None where all weights were trained.
    """

    folder: StoragePath
    config: Config
    summary: dict[str, Any]
    steps: list[dict[str, Any]]
    tokens: StoragePath | None
    manifests: dict[str, dict[str, Any]]
    adapter: dict[str, Any] | None

    @property
    def export(self) -> StoragePath:
        return self.folder / EXPORT

    @property
    def adapter_type(self) -> str | None:
        """As peft.type names it, for one that this run has."""
        return None if self.adapter is None else self.config.peft.type


def finished_run(place: str) -> FinishedRun:
    """The run at a folder or s3:// URL. Raises InputError where none is there, or it is not done, or has no export."""
    folder = storage.at(place)
    storage.check_reachable(folder)
    config, summary = _config(folder), _json(folder / "summary.json")
    again = "run `medray train` with its config once more: it goes on where it was"
    if not summary or summary.get("status") != "done":
        status = f"its status is {summary.get('status')}" if summary else "it has no summary.json"
        raise InputError(f"the run is not finished: {status}", file=folder, mend=again)
    if not has_export(folder):
        raise InputError("the run has no export", file=folder / EXPORT, mend=again)
    adapter = _json(folder / EXPORT / "adapter_config.json")
    tokens = _tokens(folder)
    return FinishedRun(
        folder, config, summary, _lines(folder / "steps.jsonl"), tokens, _manifests(tokens), adapter
    )


def has_export(folder: StoragePath) -> bool:
    """Whether the run in `folder` has written a model or an adapter, and nobody has taken it away."""
    return any((folder / EXPORT / name).exists() for name in ("config.json", "adapter_config.json"))


def _config(folder: StoragePath) -> Config:
    file = folder / "config.yaml"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise InputError(
            "no run is here", file=folder, mend="the folder of a run: <run.storage>/<run.name>"
        ) from None
    try:
        return Config.model_validate(parse(text))
    except (NotYamlError, ValidationError):
        raise InputError(
            "the config of this run cannot be read by this version",
            file=file,
            mend="the version that made the run",
        ) from None


def _tokens(folder: StoragePath) -> StoragePath | None:
    """Where data.json says, or beside the run where the storage has moved."""
    try:
        said = str((_json(folder / "data.json") or {})["tokens"]).rstrip("/")
    except LookupError:
        return None
    stated = storage.at(said).parent
    for place in (stated, folder.parent / "tokens" / stated.name):
        if (place / "train" / "manifest.json").exists():
            return place
    return None


def _manifests(tokens: StoragePath | None) -> dict[str, dict[str, Any]]:
    found = {}
    for split in ("train", "validation"):
        manifest = None if tokens is None else _json(tokens / split / "manifest.json")
        if manifest:
            found[split] = manifest
    return found


def _json(file: StoragePath) -> dict[str, Any] | None:
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _lines(file: StoragePath) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        return []


def local_export(run: FinishedRun) -> Path:
    """The run's export on this machine."""
    return storage.local(run.export)
