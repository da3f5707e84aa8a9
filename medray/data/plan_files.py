"""Arrays kept as files that can always be made again: a file that is absent or damaged is no error."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

Found = TypeVar("Found")

# What reading a file raises that was cut short, overwritten or never was one of ours.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class PlanFiles:
    """Named files in one folder. Several processes may write the same name: each file appears whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, check: Callable[[dict[str, np.ndarray]], Found]) -> Found | None:
        """`check` of the file's arrays; None where the file is absent or damaged, or `check` raises ValueError or
        KeyError."""
        try:
            # Opened here: of a file that was cut short, np.load would leave its own open.
            with (
                (self._folder / f"{name}.npz").open("rb") as file,
                np.load(file, allow_pickle=False) as archive,
            ):
                return check({key: archive[key] for key in archive.files})
        except _DAMAGED:
            return None

    def save(self, name: str, **arrays: np.ndarray) -> None:
        descriptor, staging = tempfile.mkstemp(prefix=f".{name}-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(staging, self._folder / f"{name}.npz")
        except BaseException:
            os.unlink(staging)
            raise
