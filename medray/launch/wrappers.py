"""Where the wrappers are: the folders slurm/, k8s/ and configs/ of a checkout, or what the wheel carries of them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import medray
from medray.errors import RunFailedError

_SHARED = "share/medray/"  # of a wheel's data files, below the environment's prefix


def folder(name: str) -> Path:
    """The folder `slurm`, `k8s` or `configs`. Raises RunFailedError where the installation lacks it."""
    checkout = Path(medray.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    try:
        files = importlib.metadata.distribution("medray").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:  # as pip wrote them down, wherever data files went
        if f"{_SHARED}{name}/" in file.as_posix():
            path = Path(str(file.locate())).resolve()
            return next(parent for parent in path.parents if parent.name == name)
    raise RunFailedError(f"this installation of medray lacks its folder {name}/: install the wheel again")
