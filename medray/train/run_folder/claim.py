"""Claim a run folder: resume from its checkpoints, or clear what an earlier config left in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from medray import storage
from medray.config import Config, dump
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tracking import EVALS_FILE, STEPS_FILE
from medray.tracking.mlflow_run import leave_run
from medray.train import checkpoint
from medray.train.run_folder.changes import (
    check_adalora_length,
    check_same_data,
    check_same_precision,
    check_same_weights,
    check_unchanged,
    recorded_threads,
)
from medray.train.run_folder.files import CONFIG, DATA, check_files, folder_of, read_data_notes


def claim(
    config: Config,
    tokens: str,
    precision: str,
    threads: int,
    say: Callable[[str], None],
    *,
    steps: int = 0,
    gpus: int = 0,
    rows: int | None = None,
    reference: str | None = None,
    more: Mapping[str, str] | None = None,
) -> int:
    """Write config.yaml and data.json, in a new folder if there is none. Returns the threads of each worker.

    tokens: folder of the training shards. precision: fp32, bf16 or fp16. threads: number that the cluster would give a
    worker; a resumed run keeps the number that it began with. steps: number of the whole run, for `medray status`. gpus:
    number per worker, which a resumed run waits for. rows: micro-batch that the plan gave, which a resumed run keeps. reference: name of the weights of
    a stored reference. more: other facts about the run for data.json. say: called with each note about changed keys that a resumed run accepts, and about records that
    are put aside. Raises InputError if the run's checkpoints were made under another
    config, data or precision, or if these are not known.
    """
    folder = folder_of(config)
    storage.make_private(folder)  # Ray's own files in it have the mode that applied when the cluster started
    check_files(folder)
    file, data = folder / CONFIG, folder / DATA
    resumed = checkpoint.newest(folder / "checkpoints") is not None
    if resumed and not file.exists():
        raise InputError(
            "the run has checkpoints, and the config that it began with is gone",
            file=file,
            fix="bring the file back, use another run.name, or start from scratch with --overwrite",
        )
    if not resumed and checkpoint.were_there(folder / "checkpoints"):
        _rename_records(folder, say)
    try:
        changes: tuple[str, ...] = ()
        if file.exists():
            changes = check_unchanged(file, config)
            check_adalora_length(file, config)
        check_same_data(data, tokens, config)
        check_same_precision(data, precision, config)
        check_same_weights(data, reference, config)
    except InputError as error:
        if resumed:
            raise
        changes = (str(error),)
    if resumed:
        for note in changes:
            say(note)
        kept = recorded_threads(file, data, config) or threads
        if kept != threads:
            say(
                f"every worker keeps the {kept} compute threads that the run began with, and could have {threads} here: "
                "cluster.threads_per_worker changes them, and numbers then agree to rounding only"
            )
        threads = kept
    elif changes:
        _clear_records(folder)
    notes: dict[str, str | int] = {
        "tokens": tokens,
        "precision": precision,
        "threads": threads,
        "steps": steps,
        "gpus": gpus,
    }
    if rows is not None:
        notes["micro_batch_size"] = rows
    if reference is not None:
        notes["reference"] = reference
    if resumed and (began := read_data_notes(data).get("begin_from")):
        notes["begin_from"] = began  # a resumed run does not look at the other run again
    notes.update(more or {})
    began_with = json.dumps(notes) + "\n"
    for path, text in ((file, dump(config)), (data, began_with)):
        storage.write(path, text, durable=True)
    return threads


def _rename_records(folder: StoragePath, say: Callable[[str], None]) -> None:
    """Put the records of steps aside if all checkpoints are damaged: the run computes them again and starts new files."""
    say("none of the run's checkpoints is whole: it begins at step 0")
    for name in (STEPS_FILE, EVALS_FILE):
        if (folder / name).exists():
            storage.move(folder / name, folder / f"{name}.old")
            say(f"{name} is kept as {name}.old")


def _clear_records(folder: StoragePath) -> None:
    """Clear the records of a run that died before its first checkpoint, because they were made under another config."""
    leave_run(folder)
    for name in (STEPS_FILE, EVALS_FILE):
        (folder / name).unlink(missing_ok=True)
