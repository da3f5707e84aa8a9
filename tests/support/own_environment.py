"""Environment variables that the tests of one folder need and those of other folders must not see."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def seen_in(folder: Path, values: Mapping[str, str], item: pytest.Item) -> Iterator[None]:
    """While `item` runs: the variables where it is in `folder`, else none that has such a value."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            if folder in item.path.parents:
                patch.setenv(name, value)
            elif os.environ.get(name) == value:
                patch.delenv(name)
        yield
