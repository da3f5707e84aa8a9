"""Reading what a run has left in its folder: nothing in these files is believed before it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath
from medray.storage.json_files import is_count, read_lines

SUMMARY, DATA, CONFIG, ATTEMPTS = "summary.json", "data.json", "config.yaml", "attempts.jsonl"
LARGEST_CONFIG = 1 << 20  # bytes
# What a run writes into its folder itself, besides checkpoints and the export.
FILES = (
    *(CONFIG, DATA, SUMMARY, ATTEMPTS, "steps.jsonl", "evals.jsonl", "report.html", "predictions.jsonl"),
    *("mlflow_run.json", "mlflow_unsent", "console.log"),
)

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
    peak_bytes: Count


class _Done(_Checked):
    """The summary of a run that is done: keys that a version has not written may be absent."""

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


class _Adapter(_Checked):
    """The settings of an exported adapter, as far as medray itself uses them."""

    base_model_name_or_path: str | None = None
    r: Count | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None


def read_summary(folder: StoragePath) -> dict[str, Any] | None:
    """The summary of a run; None where it has none. Raises InputError where it is damaged."""
    file = folder / SUMMARY
    try:
        tree = storage.read_json(file, fix=_RUN_AGAIN)
    except FileNotFoundError:
        return None
    if not isinstance(tree.get("status"), str):
        raise InputError("has no status", file=file, fix=_RUN_AGAIN)
    return _checked(_Done, tree, file, _RUN_AGAIN) if tree["status"] == "done" else tree


def read_adapter(export: StoragePath) -> dict[str, Any] | None:
    """peft's settings of an exported adapter; None where all weights were trained. Raises InputError."""
    file = export / "adapter_config.json"
    fix = "delete the folder and run `medray train` with the run's config: it exports again"
    try:
        return _checked(_Adapter, storage.read_json(file, fix=fix), file, fix)
    except FileNotFoundError:
        return None


def read_data_notes(file: StoragePath) -> dict[str, str]:
    """Return what data.json says of the run's data; empty where there is none. Raises InputError where it is damaged."""
    fix = "bring the file back, use another run.name, or start from scratch with --overwrite"
    try:
        tree = storage.read_json(file, fix=fix)
    except FileNotFoundError:
        return {}
    if not all(isinstance(value, str) or is_count(value) for value in tree.values()):
        raise InputError("a value in it is neither text nor a number", file=file, fix=fix)
    return {name: str(value) for name, value in tree.items()}


def read_config(file: StoragePath) -> str:
    """The text of a run's config.yaml. Raises InputError, ValueError for what is no UTF-8, OSError as `open` does."""
    return storage.read_bounded(file, LARGEST_CONFIG).decode("utf-8")


def attempts(folder: StoragePath) -> int:
    """How many starts of the workers the run has recorded."""
    try:
        return len(read_lines(folder / ATTEMPTS).records)
    except (OSError, InputError):
        return 0


def check_files(folder: StoragePath) -> None:
    """Raises InputError where a pipe, a device or a folder has the name of a file that the run will write."""
    if not isinstance(folder, Path):
        return
    for name in FILES:
        path = folder / name
        if path.exists() and not path.is_file():
            raise InputError("is not a regular file", file=path, fix="remove it, or use another run.name")
    if (path := folder / "checkpoints").exists() and not path.is_dir():
        raise InputError("is not a folder", file=path, fix="remove it, or use another run.name")


_RUN_AGAIN = "run `medray train` with the run's config: it writes the file again"


def _checked(schema: type[BaseModel], tree: dict[str, Any], file: StoragePath, fix: str) -> dict[str, Any]:
    try:
        schema.model_validate(tree)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{where[:80]} is missing or of the wrong type", file=file, fix=fix) from None
    return tree


def number(line: Mapping[str, Any], name: str) -> float:
    """A number of a record, 0 where it lacks it."""
    value = line.get(name)
    return 0.0 if value is None else value
