"""Checkpoints: complete or not there. The manifest, written last, is the only authority."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medray.errors import InputError
from medray.train.engine import Engine
from medray.train.step import Progress

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and what the run had done by then."""

    folder: Path
    progress: Progress
    world_size: int


def save(root: Path, engine: Engine, progress: Progress, *, keep: int, barrier: Callable[[], None]) -> Path:
    """All ranks write `root/step-N`; when it is complete rank 0 writes its manifest and drops the oldest ones.

    Returns after the manifest is there, so that a step announced afterwards cannot be lost.
    """
    folder = root / f"step-{progress.step:08d}"
    if engine.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed attempt left
        folder.mkdir(parents=True)
    barrier()
    engine.save(folder)
    barrier()
    if engine.rank == 0:
        _write_manifest(folder, {"progress": asdict(progress), "world_size": engine.world_size})
        for old in complete(root)[:-keep]:
            shutil.rmtree(old.folder, ignore_errors=True)
    barrier()
    return folder


def newest(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint."""
    found = complete(root)
    return found[-1] if found else None


def complete(root: Path) -> list[Checkpoint]:
    """All complete checkpoints, oldest first: every file that the manifest names is there in its size."""
    found = [_read(folder) for folder in sorted(root.glob("step-*"))]
    return [checkpoint for checkpoint in found if checkpoint]


def restore(checkpoint: Checkpoint, engine: Engine) -> Progress:
    """Loads weights and optimizer state; raises InputError when the number of workers has changed."""
    if checkpoint.world_size != engine.world_size:
        raise InputError(
            f"the checkpoint {checkpoint.folder.name} was written by {checkpoint.world_size} workers, this run has "
            f"{engine.world_size}",
            key="cluster.workers",
            value=engine.world_size,
            mend=f"cluster.workers: {checkpoint.world_size}",
        )
    engine.load(checkpoint.folder)
    return checkpoint.progress


def _write_manifest(folder: Path, state: dict[str, Any]) -> None:
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": digest}
    staging = folder / f".{MANIFEST}"
    staging.write_text(json.dumps({"files": files, **state}, indent=1))
    staging.replace(folder / MANIFEST)


def _read(folder: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, file in manifest["files"].items():
            if (folder / name).stat().st_size != file["bytes"]:
                return None
        return Checkpoint(folder, Progress(**manifest["progress"]), manifest["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
