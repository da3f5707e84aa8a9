"""Readers for the files that a run writes to its folder. Nothing in these files is used before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medray import storage
from medray.config import Config
from medray.errors import InputError
from medray.storage import StoragePath
from medray.storage.json_files import is_count, read_lines

SUMMARY, DATA, CONFIG, ATTEMPTS = "summary.json", "data.json", "config.yaml", "attempts.jsonl"
LARGEST_CONFIG = 1 << 20  # bytes
# The files that a run writes to its folder, in addition to checkpoints and the export.
FILES = (
    *(CONFIG, DATA, SUMMARY, ATTEMPTS, "steps.jsonl", "evals.jsonl", "report.html", "predictions.jsonl"),
    *("mlflow_run.json", "mlflow_unsent", "console.log"),
)


@dataclass(frozen=True)
class RunResult:
    """The result of a run. summary: as in summary.json."""

    folder: StoragePath
    summary: dict[str, Any]


def folder_of(config: Config) -> StoragePath:
    """Return the folder of a config's run."""
    return storage.at(config.run.storage) / config.run.name


Count = Annotated[int, Field(ge=0, le=2**53)]
Numbers = dict[str, float | None]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Evaluations(_Checked):
    before: Numbers = {}
    after: Numbers = {}


class _Memory(_Checked):
    device: str | None = None
    total_bytes: Count | None = None
    before_bytes: Count
    planned_bytes: Count | None = None
    peak_bytes: Count


class _Done(_Checked):
    """The summary of a finished run. Keys that an older version did not write may be missing."""

    steps: Count
    eval: _Evaluations
    exported_step: Count | None = None
    epochs: float | None = None
    samples: Count = 0
    tokens: Count = 0
    tokens_per_second: float | None = None
    world_size: Count | None = None
    order_sha256: str | None = None
    train_loss_first: float | None = None
    train_loss_last: float | None = None
    seconds: Numbers = {}
    memory: _Memory | None = None
    parameters: dict[str, Count] = {}
    versions: dict[str, str] = {}


class _Ended(_Done):
    """The summary of a run that may have been stopped or have failed."""

    steps: Count = 0
    eval: _Evaluations | None = None  # type: ignore[assignment]
    name: str | None = None
    loss_tokens: Count | None = None
    padding_fraction: float | None = None
    passes: dict[str, float] = {}
    restarts: Count = 0


class _Adapter(_Checked):
    """The settings of an exported adapter that medray reads."""

    base_model_name_or_path: str | None = None
    r: Count | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None


def read_summary(folder: StoragePath) -> dict[str, Any] | None:
    """Return the summary of a run; None if it has none. Raises InputError if the file is damaged."""
    file = folder / SUMMARY
    try:
        tree = storage.read_json(file, fix=_RUN_AGAIN)
    except FileNotFoundError:
        return None
    if not isinstance(tree.get("status"), str):
        raise InputError("has no status", file=file, fix=_RUN_AGAIN)
    return _checked(_Done, tree, file, _RUN_AGAIN) if tree["status"] == "done" else tree


def check_summary(tree: dict[str, Any], file: StoragePath) -> None:
    """Check the types of the values in a summary of any status. Raises InputError."""
    _checked(_Ended, tree, file, _RUN_AGAIN)


def read_adapter(export: StoragePath) -> dict[str, Any] | None:
    """Return peft's settings of an exported adapter; None if all weights were trained.

    Raises InputError if the file is damaged.
    """
    file = export / "adapter_config.json"
    fix = "delete the folder, and run `medray train` with the run's config to export again"
    try:
        return _checked(_Adapter, storage.read_json(file, fix=fix), file, fix)
    except FileNotFoundError:
        return None


def read_data_notes(file: StoragePath) -> dict[str, str]:
    """Return the values of data.json, which describes the run's data; empty without one.

    Raises InputError if the file is damaged.
    """
    fix = "restore the file, use another run.name, or start from scratch with --overwrite"
    try:
        tree = storage.read_json(file, fix=fix)
    except FileNotFoundError:
        return {}
    if not all(isinstance(value, str) or is_count(value) for value in tree.values()):
        raise InputError("a value is neither text nor an integer", file=file, fix=fix)
    return {name: str(value) for name, value in tree.items()}


def read_config(file: StoragePath) -> str:
    """Return the text of a run's config.yaml.

    Raises InputError if it is too large, ValueError if it is not UTF-8, and OSError as `open` does.
    """
    return storage.read_bounded(file, LARGEST_CONFIG).decode("utf-8")


def attempts(folder: StoragePath) -> int:
    """Return the number of worker starts that the run has recorded."""
    try:
        return len(read_lines(folder / ATTEMPTS).records)
    except (OSError, InputError):
        return 0


def restarts(folder: StoragePath) -> tuple[int, ...]:
    """Return the step after which each recorded start but the first resumed."""
    try:
        records = read_lines(folder / ATTEMPTS).records[1:]
    except (OSError, InputError):
        return ()
    return tuple(record["resumed_step"] for record in records if is_count(record.get("resumed_step")))


def check_files(folder: StoragePath) -> None:
    """Raise InputError if a pipe, a device or a folder has the name of a file that the run will write."""
    if not isinstance(folder, Path):
        return
    for name in FILES:
        path = folder / name
        if path.exists() and not path.is_file():
            raise InputError("is not a regular file", file=path, fix="remove it, or use another run.name")
    if (path := folder / "checkpoints").exists() and not path.is_dir():
        raise InputError("is not a folder", file=path, fix="remove it, or use another run.name")


_RUN_AGAIN = "run `medray train` with the run's config to write the file again"


def _checked(schema: type[BaseModel], tree: dict[str, Any], file: StoragePath, fix: str) -> dict[str, Any]:
    try:
        schema.model_validate(tree)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{where[:80]} is missing or of the wrong type", file=file, fix=fix) from None
    return tree


def number(line: Mapping[str, Any], name: str) -> float:
    """Return a number of a record; 0 if it is missing."""
    value = line.get(name)
    return 0.0 if value is None else value
