"""A stand-in for Ray Data and its cluster: jobs of medray predict run in the process of the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray.data

from medray.cli import cluster as ray_cluster
from medray.cli import main as command
from medray.plan.resources import NodeSupply, Supply
from medray.train import prepare


class LocalData:
    """Runs the function of `map` in this process, one item after the other."""

    def __init__(self, items: list[dict[str, Any]], one: Any = None) -> None:
        self.items, self.one = items, one

    def map(self, function: Any, fn_constructor_args: tuple[Any, ...] = (), **options: Any) -> LocalData:
        one = function(*fn_constructor_args) if isinstance(function, type) else function
        return LocalData(self.items, one)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        yield from map(self.one, self.items)


@contextmanager
def without_cluster(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Run in `folder`, and run jobs of Ray Data in this process."""
    before = os.umask(0o022)
    for name in command.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ray.data, "from_items", lambda items, **options: LocalData(items))
    for name in ("connect", "before_import"):
        monkeypatch.setattr(ray_cluster, name, lambda address: None)
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: None)
    monkeypatch.setattr(prepare, "supply", lambda: Supply.of(NodeSupply(2.0)))
    yield
    os.umask(before)
