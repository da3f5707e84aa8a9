"""Imports of the libraries of the extra `icl`, which are refused by name where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from medray.errors import InputError

_PACKAGES = {"faiss": "faiss-cpu", "bm25s": "bm25s"}


def library(name: str) -> Any:
    """Return the module `name` (faiss or bm25s). Raises InputError if it is not installed."""
    check_installed(name)
    return importlib.import_module(name)


def check_installed(*names: str) -> None:
    """Raise InputError if one of these modules is not installed. None of them is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"the package {_PACKAGES[name]} is not installed",
                key="icl",
                fix="run pip install 'medray[icl]'",
            )
