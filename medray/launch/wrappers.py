"""Location of the folders slurm/, k8s/ and configs/: in a checkout, or among the data files of the installed wheel."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import medray
from medray.errors import RunFailedError

_SHARED = "share/medray/"  # folder of the wheel's data files, below the environment's prefix


def folder(name: str) -> Path:
    """Return the path of the folder `slurm`, `k8s` or `configs`. Raises RunFailedError if the installation lacks it."""
    checkout = Path(medray.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    try:
        files = importlib.metadata.distribution("medray").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:  # pip recorded the path of each file, wherever it put the data files
        if f"{_SHARED}{name}/" in file.as_posix():
            path = Path(str(file.locate())).resolve()
            return next(parent for parent in path.parents if parent.name == name)
    raise RunFailedError(
        f"this installation of medray lacks the folder {name}/. Fix: install the wheel again"
    )
