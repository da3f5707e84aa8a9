"""The reader of a finished run's folder. It writes nothing and imports nothing heavy."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medray import storage
from medray.config import Config
from medray.config.checks.adapter_folder import SETTINGS, WEIGHTS
from medray.config.loading.yaml_text import NotYamlError, parse
from medray.data.shards.seal import MANIFEST
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tracking import STEPS_FILE
from medray.tracking.step_file import read_records
from medray.train.run_folder.files import DATA, read_adapter, read_config, read_data_notes, read_summary

EXPORT = "export"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    summary: as in summary.json. steps: lines of steps.jsonl. tokens: folder of its token shards, None if it is gone.
    manifests: the manifest of each split in `tokens`, see data/shards/split_summary.py. adapter: peft's settings of the
    exported adapter, None if all weights were trained. precision: fp32, bf16 or fp16, as used in training.
    """

    folder: StoragePath
    config: Config
    summary: dict[str, Any]
    steps: list[dict[str, Any]]
    tokens: StoragePath | None
    manifests: dict[str, dict[str, Any]]
    adapter: dict[str, Any] | None
    precision: str = "fp32"

    @property
    def export(self) -> StoragePath:
        return self.folder / EXPORT

    @property
    def adapter_type(self) -> str | None:
        """Return `peft.type` of the run's adapter; None if all weights were trained."""
        return None if self.adapter is None else self.config.peft.type


def finished_run(location: str) -> FinishedRun:
    """Return the run at a folder or s3:// URL. Raises InputError if there is no run, or if it is unfinished or has no export."""
    folder = storage.at(location)
    storage.check_reachable(folder)
    config, summary = _config(folder), read_summary(folder)
    again = "run `medray train` with its config again: it resumes from its last checkpoint"
    if not summary or summary["status"] != "done":
        status = f"its status is {summary['status']}" if summary else "it has no summary.json"
        raise InputError(f"the run is not finished: {status}", file=folder, fix=again)
    if not has_export(folder):
        raise InputError(
            "the run has no export, or a file of its weights is missing", file=folder / EXPORT, fix=again
        )
    adapter = read_adapter(folder / EXPORT)
    tokens = token_folder(folder)
    steps = read_records(folder / STEPS_FILE)
    precision = _precision(folder, config)
    return FinishedRun(folder, config, summary, steps, tokens, split_manifests(tokens), adapter, precision)


def has_export(folder: StoragePath) -> bool:
    """Return whether the run in `folder` has exported a model or an adapter, with all files of its weights.

    An adapter on a randomly initialized base has the base's weights in the subfolder "base".
    """
    export = folder / EXPORT
    if (export / SETTINGS).exists():
        base = export / "base"
        return (export / WEIGHTS).exists() and (not (base / "config.json").exists() or _has_weights(base))
    return (export / "config.json").exists() and _has_weights(export)


def _has_weights(folder: StoragePath) -> bool:
    if (folder / "model.safetensors").exists():
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(names) and all((folder / name).exists() for name in names)


def _config(folder: StoragePath) -> Config:
    file = folder / "config.yaml"
    try:
        text = read_config(file)
    except (OSError, ValueError):
        raise InputError(
            "this folder holds no run", file=folder, fix="use the folder of a run: <run.storage>/<run.name>"
        ) from None
    try:
        return Config.model_validate(parse(text))
    except (NotYamlError, ValidationError):
        raise InputError(
            "this version of medray cannot read the config of this run",
            file=file,
            fix="use the version of medray that wrote it",
        ) from None


def token_folder(folder: StoragePath) -> StoragePath | None:
    """Return the token folder that data.json names; if storage was moved, the one in the parent of the run folder."""
    said = read_data_notes(folder / DATA).get("tokens")
    if said is None:
        return None
    stated = storage.at(said.rstrip("/")).parent
    for candidate in (stated, folder.parent / "tokens" / stated.name):
        with suppress(OSError):  # the name may be too long
            if (candidate / "train" / MANIFEST).exists():
                return candidate
    return None


def _precision(folder: StoragePath, config: Config) -> str:
    """Return the recorded precision of the run; if there is none, the config's, else fp32, which loses nothing."""
    for found in (read_data_notes(folder / DATA).get("precision"), config.train.precision):
        if found in ("fp32", "bf16", "fp16"):
            return str(found)
    return "fp32"


def split_manifests(tokens: StoragePath | None) -> dict[str, dict[str, Any]]:
    """Return the manifest of each split in a token folder; without those that are missing or damaged."""
    from medray.data.shards.split_summary import read_manifest  # this imports pyarrow

    found = {}
    for split in ("train", "validation"):
        manifest = None if tokens is None else read_manifest(tokens / split)
        if manifest:
            found[split] = manifest
    return found


def local_export(run: FinishedRun) -> Path:
    """Return the folder of the run's export on this machine, downloading it if needed."""
    return storage.local(run.export)
