"""A run name that was used before: finished, to be gone on with, or begun under another config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medray.config import Config
from medray.errors import InputError

LENGTH = ("train.max_steps", "train.epochs")


@dataclass(frozen=True)
class RunResult:
    """folder: of the run. summary: as in summary.json."""

    folder: Path
    summary: dict[str, Any]


def finished(config: Config) -> RunResult | None:
    """The result of a run that is done, None where there is something left to do.

    A run that shall now be longer goes on. Raises InputError when another key that decides the numbers has changed.
    """
    folder = Path(config.run.storage) / config.run.name
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    if summary.get("status") != "done" or not (folder / "config.yaml").exists():
        return None
    check_unchanged(folder / "config.yaml", config)
    then, now = _then(folder / "config.yaml"), flat(config.model_dump(mode="json"))
    return RunResult(folder, summary) if all(then.get(key) == now[key] for key in LENGTH) else None


def check_unchanged(file: Path, config: Config) -> None:
    """Raises InputError when a key that decides the numbers differs from the config that a run began with."""
    then, now = _then(file), flat(config.model_dump(mode="json"))
    free = _resumable(Config, ())
    changed = [
        key
        for key in sorted(set(then) | set(now))
        if then.get(key) != now.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    ]
    if changed:
        key = changed[0]
        raise InputError(
            f"the run {config.run.name} has checkpoints that were made with {key}: {then.get(key)}"
            + (f" (and {len(changed) - 1} other keys differ)" if len(changed) > 1 else ""),
            key=key,
            value=now.get(key),
            mend="give it back its old value, or use another run.name",
        )


def check_same_data(file: Path, tokens: str, config: Config) -> None:
    """Raises InputError when the run's checkpoints were trained on other token shards than those at `tokens`.

    file: data.json of the run, which names them. The folder's name is a hash of all that decides the tokens.
    """
    try:
        then = str(json.loads(file.read_text())["tokens"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    if Path(then).parts[-2:] != Path(tokens).parts[-2:]:
        raise InputError(
            f"the run {config.run.name} has checkpoints of other data: a file of data.train, its tokenizer or the way "
            "rows become tokens has changed since",
            key="run.name",
            value=config.run.name,
            mend="another run.name, or bring the files back as they were",
        )


def _resumable(model: Any, prefix: tuple[str, ...]) -> list[str]:
    names = []
    for name, item in model.model_fields.items():
        if (item.json_schema_extra or {}).get("resumable"):
            names.append(".".join((*prefix, name)))
        elif hasattr(item.annotation, "model_fields"):
            names += _resumable(item.annotation, (*prefix, name))
    return names


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys with their values as JSON."""
    leaves: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = json.dumps(value)
    return leaves


def _then(file: Path) -> dict[str, str]:
    return flat(yaml.safe_load(file.read_text()))
