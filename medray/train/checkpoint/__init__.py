"""Checkpoints of a run. A checkpoint counts only if it is complete; its manifest, which is written last, decides that.

    checkpoints/step-00000040-67408f1c/     the step, and which start of the workers wrote it
        rank-00000.safetensors              the state of one rank, by name and position: train/checkpoint/state_files.py
        rank-00000.json                     size and hash of that file, written when the file is on storage
        manifest.json                       the files of all ranks, the progress of the run, and the metrics of an
                                            evaluation at this step; written by rank 0, last

Each start of the workers writes to its own folders, so its files never mix with those of a killed start. A folder is never
read if it has no manifest or if its files differ from the manifest. The manifest contains a hash of itself, and its step must
match the step in the folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from medray import storage
from medray.config.eval import lower_is_better
from medray.errors import InputError
from medray.storage import StoragePath, json_files, sizes
from medray.storage.json_files import is_count, is_number
from medray.train.checkpoint.state_files import Retries, StateReader, sha256
from medray.train.engine import Engine
from medray.train.loop.step import Progress

MANIFEST, DAMAGED = "manifest.json", "manifest.damaged.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files all exist with the sizes that its manifest lists.

    metrics: metrics of the evaluation at this step, {} if there was none. files: {name: {"bytes": …, "sha256": …}}.
    """

    folder: StoragePath
    progress: Progress
    world_size: int
    optimizer_step: float
    metrics: Mapping[str, float]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def state_files(self) -> list[StoragePath]:
        return [self.folder / name for name in sorted(self.files) if name.endswith(".safetensors")]


def folder_of(root: StoragePath, step: int, attempt: int) -> StoragePath:
    return root / f"step-{step:08d}-{attempt:08x}"


def complete(root: StoragePath) -> list[Checkpoint]:
    """Return all complete checkpoints, oldest first."""
    found = [read(folder) for folder in _folders(root)]
    return [checkpoint for checkpoint in found if checkpoint]


def newest(root: StoragePath) -> Checkpoint | None:
    """Return the newest complete checkpoint, or None. Its hashes are not checked here."""
    found = complete(root)
    return found[-1] if found else None


def were_there(root: StoragePath) -> bool:
    """Return whether the run ever completed a checkpoint, even if it was damaged later."""
    return any((folder / name).exists() for folder in _folders(root) for name in (MANIFEST, DAMAGED))


def resume(root: StoragePath, engine: Engine, skipped: Callable[[str], None], retries: Retries) -> Progress:
    """Load the newest checkpoint that matches its manifest. Without one, the run begins at step 0. Collective.

    The checkpoint may have been written by any number of ranks at any ZeRO stage. skipped: called on rank 0 with a
    message about each checkpoint that cannot be used. Raises RunFailedError if a sound checkpoint belongs to a different
    model, and OSError if storage cannot be read for longer than the time limit of `retries`. An unreadable checkpoint is
    not treated as damaged.
    """
    loaded = _load_first(retries.attempt(_folders, root)[::-1], root, engine, skipped, retries)
    return loaded.progress if loaded else Progress()


def load_best(
    root: StoragePath, metric: str, engine: Engine, skipped: Callable[[str], None], retries: Retries
) -> Checkpoint | None:
    """Load the checkpoint with the best value of `metric`, as `resume` does. Collective.

    Returns None if no checkpoint has this metric.
    """
    folders = [one.folder for one in _ranked(retries.attempt(complete, root), metric)]
    return _load_first(folders, root, engine, skipped, retries)


def _load_first(
    folders: Sequence[StoragePath],
    root: StoragePath,
    engine: Engine,
    skipped: Callable[[str], None],
    retries: Retries,
) -> Checkpoint | None:
    """Load the first sound checkpoint of `folders`.

    Rank 0's list decides, because other ranks may have listed storage a moment earlier.
    """
    for index in range(_from_rank_0(engine, len(folders))):
        step, attempt = _named(folders[index]) if engine.rank == 0 else (0, 0)
        folder = folder_of(root, _from_rank_0(engine, step), _from_rank_0(engine, attempt))
        checkpoint = retries.attempt(read, folder)
        if is_sound(checkpoint, engine, retries):
            assert checkpoint
            _restore(checkpoint, engine, retries)
            return checkpoint
        if engine.rank == 0:
            with suppress(OSError):  # so that it does not count as one of the `keep` newest
                storage.move(folder / MANIFEST, folder / DAMAGED)
            skipped(f"the checkpoint {folder.name} is incomplete or damaged and was skipped")
    return None


def write_manifest(
    folder: StoragePath,
    progress: Progress,
    optimizer_step: float,
    metrics: Mapping[str, float],
    records: Sequence[Mapping[str, Any]],
) -> None:
    """Write the manifest, which completes a checkpoint.

    records: the records of all ranks, as in rank-00000.json.
    """
    manifest = {
        "format": FORMAT,
        "progress": asdict(progress),
        "world_size": len(records),
        "optimizer_step": optimizer_step,
        "metrics": dict(metrics),
        "files": {record["file"]: {key: record[key] for key in ("bytes", "sha256")} for record in records},
    }
    json_files.write_sealed(folder / MANIFEST, manifest, indent=1, durable=True)


def rate(folder: StoragePath, metrics: Mapping[str, float]) -> None:
    """Add the metrics of a later evaluation at the same step to a complete checkpoint.

    A checkpoint that was retired meanwhile is not written again.
    """
    with suppress(FileNotFoundError, InputError):
        manifest = json_files.read_sealed(folder / MANIFEST) | {"metrics": dict(metrics)}
        json_files.write_sealed(folder / MANIFEST, manifest, indent=1, durable=True)


def retire(root: StoragePath, *, keep: int, best: str | None) -> None:
    """Delete all checkpoints except the `keep` newest and the best by the metric `best`.

    Incomplete checkpoints of killed starts are deleted too.
    """
    found = complete(root)
    if not found:
        return
    kept = {checkpoint.folder for checkpoint in found[-keep:]}
    if best and (ranked := _ranked(found, best)):
        kept.add(ranked[0].folder)
    for folder in _folders(root):
        if folder not in kept:
            (folder / MANIFEST).unlink(
                missing_ok=True
            )  # first, so that a half-deleted one never looks complete
            storage.remove_tree(folder)


def _ranked(found: Sequence[Checkpoint], metric: str) -> list[Checkpoint]:
    """Return the checkpoints that have `metric`, best first; among equals, the earliest comes first."""
    sign = 1 if lower_is_better(metric) else -1
    rated = [one for one in found if metric in one.metrics]
    return sorted(rated, key=lambda one: sign * one.metrics[metric])


def _restore(checkpoint: Checkpoint, engine: Engine, retries: Retries) -> None:
    state = engine.state()
    with retries.attempt(StateReader, checkpoint.state_files) as reader:
        state.load(partial(retries.attempt, reader.read), checkpoint.optimizer_step)


def is_sound(checkpoint: Checkpoint | None, engine: Engine, retries: Retries) -> bool:
    """Return whether a checkpoint exists and all its files match their hashes. Each rank reads its share. Collective."""
    files = sorted(checkpoint.files)[engine.rank :: engine.world_size] if checkpoint else []
    bad = not checkpoint or not all(retries.attempt(_matches, checkpoint, name) for name in files)
    return not engine.sum(torch.tensor([float(bad)], device=engine.device)).item()


def _matches(checkpoint: Checkpoint, name: str) -> bool:
    try:
        with (checkpoint.folder / name).open("rb") as stream:
            return bool(sha256(stream) == checkpoint.files[name]["sha256"])
    except FileNotFoundError:
        return False


def _from_rank_0(engine: Engine, value: int) -> int:
    mine = value if engine.rank == 0 else 0
    return int(engine.sum(torch.tensor([mine], dtype=torch.int64, device=engine.device)).item())


def _folders(root: StoragePath) -> list[StoragePath]:
    """Return the folders of all checkpoints, complete or not, oldest first."""
    return sorted(root.glob("step-*"), key=lambda folder: folder.name)


def _named(folder: StoragePath) -> tuple[int, int]:
    """Return (step, attempt) from a folder's name; (0, 0), which no checkpoint has, for any other name."""
    found = re.fullmatch(r"step-(\d+)-([0-9a-f]+)", folder.name)
    return (int(found[1]), int(found[2], 16)) if found else (0, 0)


def read(folder: StoragePath) -> Checkpoint | None:
    """Read a checkpoint; None if it is incomplete. Raises InputError if a different version of medray wrote it."""
    try:
        manifest = json_files.read_sealed(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, InputError):
        return None
    if not is_count(version := manifest.get("format")):
        return None
    if version != FORMAT:
        raise InputError(
            f"the checkpoint has format {version}, which a different version of medray wrote; this one reads {FORMAT}",
            file=folder,
            fix="resume with that version, or use another run.name",
        )
    try:
        found = _checkpoint(folder, manifest)
    except (LookupError, TypeError, AttributeError):
        return None
    there = sizes(folder)  # only files directly in this folder, so a name that leads out of it is not found
    return found if all(there.get(name) == file["bytes"] for name, file in found.files.items()) else None


def _checkpoint(folder: StoragePath, manifest: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that a manifest describes.

    Raises LookupError, TypeError or AttributeError if medray cannot have written this manifest.
    """
    progress = Progress(**manifest["progress"])
    counts = [progress.samples, progress.tokens, progress.loss_tokens, progress.evaluated]
    metrics, files = manifest["metrics"], manifest["files"]
    sound = (
        is_count(progress.step)
        and progress.step
        == _named(folder)[0]  # with a manifest of a different step, the run would skip the steps in between
        and all(map(is_count, counts))
        and isinstance(progress.order, str)
        and is_count(manifest["world_size"])
        and is_number(manifest["optimizer_step"])
        and all(map(is_number, metrics.values()))
        and all(is_count(file["bytes"], 2**62) and isinstance(file["sha256"], str) for file in files.values())
    )
    if not sound or len(files) != manifest["world_size"]:
        raise TypeError
    return Checkpoint(folder, progress, manifest["world_size"], manifest["optimizer_step"], metrics, files)
