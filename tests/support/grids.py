"""Parameters of which `make test` runs the first few, and `make test-all` the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """Return the values as parameters; those after the first `count` are marked long."""
    return [
        pytest.param(value, marks=pytest.mark.long if index >= count else ())
        for index, value in enumerate(values)
    ]
