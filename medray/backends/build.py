"""The backend that a section of a config describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medray.backends.function import rule
from medray.backends.price import Budget
from medray.backends.protocol import Backend, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError

# Returns the backend of a local model. where: the dotted key of the section, for messages.
LocalModel = Callable[[BackendConfig, str], Backend]


def build(
    section: BackendConfig,
    where: str,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    folder: Path | None = None,
    local: LocalModel | None = None,
    rules: Mapping[str, Callable[[Request], str]] | None = None,
) -> Backend:
    """Return the backend of a section.

    where: dotted key of the section, for messages. folder: where a batch backend keeps its files. local: makes the backend of a local model, which needs torch and is
    therefore handed in. rules: the rules that a section may name. Raises InputError for what this caller does not offer,
    for a missing key or package, and for a file that cannot be read.
    """
    if section.type == "endpoint":
        from medray.backends.endpoint import Endpoint

        return Endpoint(section, where, budget=budget, seed=seed)
    if section.type == "batch" and folder is not None:
        from medray.backends.batches import Batches

        return Batches(section, where, folder, budget=budget)
    if section.type == "replay":
        from medray.backends.replay import Replay

        return Replay(section, where)
    if section.type == "rule":
        known = rules or {}
        found = known.get(section.rule or "")
        if found is None:
            raise InputError(
                "there is no such rule",
                key=f"{where}.rule",
                value=section.rule,
                fix=f"use {', '.join(sorted(known))}" if known else "set another type",
            )
        return rule(f"rule {section.rule}", found)
    if local is None or section.type != "local":
        what = "a local model" if section.type == "local" else "a batch"
        raise InputError(
            f"{what} cannot answer here", key=f"{where}.type", value=section.type, fix="set another type"
        )
    return local(section, where)
