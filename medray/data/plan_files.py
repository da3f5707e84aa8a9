"""Arrays kept as files that can always be made again: a file that is absent or damaged is no error."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from medray import storage
from medray.storage import StoragePath

Found = TypeVar("Found")

# What reading a file raises that was cut short, overwritten or never was one of ours.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class PlanFiles:
    """Named files in one folder. Several processes may write the same name: each file appears whole."""

    def __init__(self, folder: StoragePath) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, check: Callable[[dict[str, np.ndarray]], Found]) -> Found | None:
        """`check` of the file's arrays; None where the file is absent or damaged, or `check` raises ValueError or
        KeyError."""
        try:
            # Read here: of a file that was cut short, np.load would leave its own open.
            read = io.BytesIO((self._folder / f"{name}.npz").read_bytes())
            with np.load(read, allow_pickle=False) as archive:
                return check({key: archive[key] for key in archive.files})
        except _DAMAGED:
            return None

    def save(self, name: str, **arrays: np.ndarray) -> None:
        made = io.BytesIO()
        np.savez(made, **arrays)  # type: ignore[arg-type]
        storage.write(self._folder / f"{name}.npz", made.getbuffer())
