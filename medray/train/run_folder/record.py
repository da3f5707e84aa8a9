"""The record of a run: what its folder says about it, whether it is finished, stopped, failed, killed or running.

The folder is untrusted: files are bounded, values are checked, and numbers that no chart can show are removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.loading.yaml_text import NotYamlError, parse
from medray.errors import InputError
from medray.report.curves import LARGEST, is_number
from medray.storage import StoragePath
from medray.storage.json_files import LARGEST_LINES
from medray.tracking import EVALS_FILE, STEPS_FILE
from medray.tracking.step_file import read_records
from medray.train.run_folder import files, lock
from medray.train.run_folder.changes import leaves
from medray.train.run_folder.finished_run import split_manifests, token_folder

Record = dict[str, Any]

LARGEST_RECORDS = 1 << 30  # bytes of steps.jsonl, which are about a million steps
SAMPLE_BYTES = 4 << 20  # of predictions.jsonl that are read
MOST_SAMPLES = 12
COPY_FILE = "restore the file from a copy of the run's folder"
_KINDS = {"search": "a search", "stages": "a run with stages"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The record of a run.

    summary: as in summary.json; what it lacks is computed from the steps, and `status` is that of now. config_yaml: the
    text of config.yaml. config: its values by dotted key, with defaults. steps, evaluations: the lines of steps.jsonl and
    evals.jsonl. restarts: the step after which each start but the first resumed. manifests: the manifest of each split,
    if its token shards are still there. samples: answers with their prompts, None unless tracking.show_text was true.
    """

    folder: StoragePath
    summary: Record
    config_yaml: str
    config: Record
    steps: list[Record]
    evaluations: list[Record]
    restarts: tuple[int, ...]
    manifests: dict[str, Record]
    samples: list[Record] | None


def is_run(folder: StoragePath) -> bool:
    """Return whether a folder is that of one run that has begun, and not that of a search or of a run with stages."""
    if not folder.is_dir():
        return False
    try:
        summary = files.read_summary(folder) or {}
    except InputError:
        summary = {}  # `read_record` says what is wrong with it
    return (folder / files.CONFIG).exists() and not any(key in summary for key in _KINDS)


def read_record(folder: StoragePath, *, data: bool = True) -> RunRecord:
    """Read the record of the run in `folder`.

    data: whether manifests and samples are read too. Raises InputError if the folder holds no run that has begun, if a
    file is missing or damaged, or if storage cannot be read.
    """
    with _readable(folder):
        config_yaml, config = _config(folder / files.CONFIG)
        summary = files.read_summary(folder) or {}
        files.check_summary(summary, folder / files.SUMMARY)
        _refuse_composed(folder, summary)
        steps, evaluations = _records(folder / STEPS_FILE), _records(folder / EVALS_FILE)
        if not steps and not summary:
            raise InputError(
                "this run has recorded nothing yet: it has neither summary.json nor a step in steps.jsonl",
                file=folder,
                fix="wait for its first step, or start it with medray train",
            )
        status = _status(folder, summary, steps)
        if status != summary.get("status"):  # of an earlier start
            summary = {}
        restarts = files.restarts(folder)
        computed = {"name": folder.name, "status": status} | _computed(steps) | {"restarts": len(restarts)}
        summary = computed | _tame(summary)
        if isinstance(summary.get("seconds"), dict):
            summary["seconds"] = {
                name: value for name, value in summary["seconds"].items() if is_number(value)
            }
        return RunRecord(
            folder=folder,
            summary=summary,
            config_yaml=config_yaml,
            config=config,
            steps=steps,
            evaluations=evaluations,
            restarts=restarts,
            manifests=_tame(split_manifests(token_folder(folder))) if data else {},
            samples=_samples(folder) if data and config.get("tracking.show_text") is True else None,
        )


@contextmanager
def _readable(folder: StoragePath) -> Iterator[None]:
    """Turn errors of storage into an InputError that names the folder or the file."""
    try:
        yield
    except OSError as error:
        if not isinstance(folder, Path):
            raise storage.unreachable(folder, error) from None
        raise InputError(
            f"cannot be read ({storage.summary(error)})",
            file=error.filename if isinstance(error.filename, str) else folder,
            fix="check the file and who may read it",
        ) from None


def _config(file: StoragePath) -> tuple[str, Record]:
    """Return the text of a config.yaml, and its values by dotted key; a key that is newer than the run has its default."""
    tree: Any = None
    with suppress(FileNotFoundError, ValueError, NotYamlError):
        text = files.read_config(file)
        tree = parse(text)
    if not isinstance(tree, dict) or not isinstance(tree.get("run"), dict):
        raise InputError("the config of this run is missing or damaged", file=file, fix=COPY_FILE)
    return text, leaves(Config().model_dump(mode="json")) | leaves(tree)


def _refuse_composed(folder: StoragePath, summary: Record) -> None:
    """Raise InputError for the folder of a search or of a run with stages, which have runs and no steps."""
    for key, what in _KINDS.items():
        if key in summary:
            raise InputError(
                f"this is the folder of {what}, which has no steps of its own",
                file=folder,
                fix=f"name the folders of its runs, {folder}.*; the page of a search is its report.html",
            )


def _records(file: StoragePath) -> list[Record]:
    """Return the records of a file of steps or evaluations, [] if there is none. A line that was cut off is left out."""
    try:
        with storage.open_bounded(file, LARGEST_RECORDS, fix=COPY_FILE) as (_, size):
            pass
    except FileNotFoundError:
        return []
    found = [_tame(record) for record in read_records(file)]
    if size and not found:
        raise InputError("no line of this file can be read", file=file, fix=COPY_FILE)
    return found


def _tame(value: Any) -> Any:
    """Return a JSON value without numbers that are too large to compute with. NaN and infinities stay, and are shown."""
    if isinstance(value, dict):
        return {name: _tame(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_tame(each) for each in value]
    if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        return None
    return value


def _status(folder: StoragePath, summary: Record, steps: list[Record]) -> str:
    """Return the status of now. A run is `not running` if it was killed."""
    if lock.holder(folder) is not None:
        return "running"
    ended = str(summary.get("status", "not running"))
    step = steps[-1]["step"] if steps else 0
    return "not running" if ended != "done" and step > (summary.get("steps") or 0) else ended


def _computed(steps: list[Record]) -> Record:
    """Return the values of a summary that the steps give."""
    if not steps:
        return {}
    tokens, seconds = total(steps, "tokens"), total(steps, "seconds")
    return {
        "steps": steps[-1]["step"],
        "samples": int(total(steps, "samples")),
        "tokens": int(tokens),
        "train_loss_first": steps[0].get("loss"),
        "train_loss_last": steps[-1].get("loss"),
        "tokens_per_second": tokens / seconds if seconds > 0 else None,
        "seconds": {"train": seconds},
    }


def total(steps: list[Record], name: str) -> float:
    """Return the sum of a number over the steps; a step that lacks it counts as 0."""
    return float(sum(record[name] for record in steps if is_number(record.get(name))))


def _samples(folder: StoragePath) -> list[Record]:
    """Return the first answers in predictions.jsonl that have their prompt and reference."""
    try:
        with storage.open_bounded(folder / "predictions.jsonl", LARGEST_LINES) as (stream, _):
            lines = bytes(stream.read(SAMPLE_BYTES)).split(b"\n")[:MOST_SAMPLES]
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(InputError):
            record = storage.parse_json(line, None)
            if isinstance(record, dict) and all(
                isinstance(record.get(key), str) for key in ("prompt", "reference", "prediction")
            ):
                found.append(record)
    return found
