"""Checkpoints: complete or not there. The manifest, written last, is the only authority.

    checkpoints/step-00000040-67408f1c/     the step, and which start of the workers wrote it
        rank-00000.safetensors              what each rank held, by name and place: train/checkpoint/state_files.py
        rank-00000.json                     its size and hash, written when the rank's file is on storage
        manifest.json                       all of them, how far the run had come, and the metrics of an evaluation at
                                            this step; written by rank 0, last

Each start of the workers writes into folders of its own, so nothing that a killed one left can mix with what is written
now. A folder without a manifest, or whose files are not what its manifest says, is never read. The manifest carries a hash of
itself, and its step must be that of its folder's name.
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
from medray.train.step import Progress

MANIFEST, DAMAGED = "manifest.json", "manifest.damaged.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there in their sizes.

    metrics: of the evaluation at this step, {} where there was none. files: {name: {"bytes": …, "sha256": …}}.
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
    """All complete checkpoints, oldest first."""
    found = [_read(folder) for folder in _folders(root)]
    return [checkpoint for checkpoint in found if checkpoint]


def newest(root: StoragePath) -> Checkpoint | None:
    """The newest complete checkpoint; its hashes have not been looked at."""
    found = complete(root)
    return found[-1] if found else None


def were_there(root: StoragePath) -> bool:
    """Whether any checkpoint ever was whole, damaged or not since."""
    return any((folder / name).exists() for folder in _folders(root) for name in (MANIFEST, DAMAGED))


def resume(root: StoragePath, engine: Engine, skipped: Callable[[str], None], patience: Retries) -> Progress:
    """Collective: loads the newest checkpoint that is what its manifest says; without one a run begins at step 0.

    Written by any number of ranks at any ZeRO stage. skipped: told on rank 0 of each one that cannot be used.
    Raises RunFailedError where a checkpoint is sound and of another model, and OSError where storage cannot be read
    for longer than the patience: that says nothing about what it holds.
    """
    loaded = _load_first(patience.attempt(_folders, root)[::-1], root, engine, skipped, patience)
    return loaded.progress if loaded else Progress()


def load_best(
    root: StoragePath, metric: str, engine: Engine, skipped: Callable[[str], None], patience: Retries
) -> Checkpoint | None:
    """Collective: the same with the checkpoint that is best by `metric`; None where no evaluation has rated one."""
    folders = [one.folder for one in _ranked(patience.attempt(complete, root), metric)]
    return _load_first(folders, root, engine, skipped, patience)


def _load_first(
    folders: Sequence[StoragePath],
    root: StoragePath,
    engine: Engine,
    skipped: Callable[[str], None],
    patience: Retries,
) -> Checkpoint | None:
    """The first of them that is sound. Rank 0 says which they are: others may have listed storage a moment earlier."""
    for place in range(_from_rank_0(engine, len(folders))):
        step, attempt = _named(folders[place]) if engine.rank == 0 else (0, 0)
        folder = folder_of(root, _from_rank_0(engine, step), _from_rank_0(engine, attempt))
        checkpoint = patience.attempt(_read, folder)
        files = sorted(checkpoint.files)[engine.rank :: engine.world_size] if checkpoint else []
        bad = not checkpoint or not all(patience.attempt(_is_sound, checkpoint, name) for name in files)
        if not engine.sum(torch.tensor([float(bad)], device=engine.device)).item():
            assert checkpoint
            _restore(checkpoint, engine, patience)
            return checkpoint
        if engine.rank == 0:
            with suppress(OSError):  # so that it is not counted among those that are kept
                storage.move(folder / MANIFEST, folder / DAMAGED)
            skipped(f"the checkpoint {folder.name} is not whole and was skipped")
    return None


def write_manifest(
    folder: StoragePath,
    progress: Progress,
    optimizer_step: float,
    metrics: Mapping[str, float],
    records: Sequence[Mapping[str, Any]],
) -> None:
    """records: of all ranks, as in rank-00000.json."""
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
    """Of a complete checkpoint: an evaluation at its step came after it. One that was retired meanwhile stays gone."""
    with suppress(FileNotFoundError, InputError):
        manifest = json_files.read_sealed(folder / MANIFEST) | {"metrics": dict(metrics)}
        json_files.write_sealed(folder / MANIFEST, manifest, indent=1, durable=True)


def retire(root: StoragePath, *, keep: int, best: str | None) -> None:
    """Deletes all but the `keep` newest and the best by the metric `best`: what killed starts have left too."""
    found = complete(root)
    if not found:
        return
    kept = {checkpoint.folder for checkpoint in found[-keep:]}
    if best and (ranked := _ranked(found, best)):
        kept.add(ranked[0].folder)
    for folder in _folders(root):
        if folder not in kept:
            (folder / MANIFEST).unlink(missing_ok=True)  # first: half of a checkpoint must not look whole
            storage.remove_tree(folder)


def _ranked(found: Sequence[Checkpoint], metric: str) -> list[Checkpoint]:
    """Those with a rating, the best first; of equals the earliest."""
    sign = 1 if lower_is_better(metric) else -1
    rated = [one for one in found if metric in one.metrics]
    return sorted(rated, key=lambda one: sign * one.metrics[metric])


def _restore(checkpoint: Checkpoint, engine: Engine, patience: Retries) -> None:
    state = engine.state()
    with patience.attempt(StateReader, checkpoint.state_files) as reader:
        state.load(partial(patience.attempt, reader.read), checkpoint.optimizer_step)


def _is_sound(checkpoint: Checkpoint, name: str) -> bool:
    try:
        with (checkpoint.folder / name).open("rb") as stream:
            return sha256(stream) == checkpoint.files[name]["sha256"]
    except FileNotFoundError:
        return False


def _from_rank_0(engine: Engine, value: int) -> int:
    mine = value if engine.rank == 0 else 0
    return int(engine.sum(torch.tensor([mine], dtype=torch.int64, device=engine.device)).item())


def _folders(root: StoragePath) -> list[StoragePath]:
    """Of all checkpoints, whole or not, oldest first."""
    return sorted(root.glob("step-*"), key=lambda folder: folder.name)


def _named(folder: StoragePath) -> tuple[int, int]:
    """(step, attempt); (0, 0) is nobody's."""
    found = re.fullmatch(r"step-(\d+)-([0-9a-f]+)", folder.name)
    return (int(found[1]), int(found[2], 16)) if found else (0, 0)


def _read(folder: StoragePath) -> Checkpoint | None:
    """None for one that is not whole. Raises InputError for one of another version of medray."""
    try:
        manifest = json_files.read_sealed(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, InputError):
        return None
    if not is_count(version := manifest.get("format")):
        return None
    if version != FORMAT:
        raise InputError(
            "it was written by another version of medray",
            file=folder,
            fix="go on with that version, or use another run.name",
        )
    try:
        found = _checkpoint(folder, manifest)
    except (LookupError, TypeError, AttributeError):
        return None
    there = sizes(folder)  # of files in this very folder: a name that leads out of it is not among them
    return found if all(there.get(name) == file["bytes"] for name, file in found.files.items()) else None


def _checkpoint(folder: StoragePath, manifest: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that a manifest describes. Raises LookupError, TypeError or AttributeError where it cannot be what medray wrote."""
    progress = Progress(**manifest["progress"])
    counts = [progress.samples, progress.tokens, progress.loss_tokens, progress.evaluated]
    metrics, files = manifest["metrics"], manifest["files"]
    sound = (
        is_count(progress.step)
        and progress.step
        == _named(folder)[0]  # the manifest of another step would leave out what lies between
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
