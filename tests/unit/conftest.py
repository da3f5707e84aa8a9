"""One thread a process: the models are tiny, several processes run at once, and more threads wait for each other."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from own_environment import seen_in

OWN = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
os.environ.update(OWN)  # torch reads it once, when it is first imported


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with seen_in(Path(__file__).parent, OWN, item):
        return (yield)
