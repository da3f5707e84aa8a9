"""The check of what has changed in config, data and cluster since a run began: a resumed run accepts only some of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.loading.dotted import fields, values
from medray.config.loading.yaml_text import NotYamlError, parse
from medray.errors import InputError, printable
from medray.storage import StoragePath
from medray.storage.json_files import is_number
from medray.train.run_folder import files

MOST_SHOWN = 5
LONGEST_SHOWN = 80  # characters of a value
# Keys that decide how a global batch is split across the cluster. A change of them changes the rounding of sums, and which
# elements dropout draws.
ROUNDING = (
    "cluster.workers",
    "cluster.cpus_per_worker",
    "cluster.threads_per_worker",
    "cluster.gpus",
    "train.micro_batch_size",
    "train.gradient_accumulation_steps",
    "train.zero_stage",
)
# Keys that decide the threads of a worker, apart from the cluster.
SHARES = ("cluster.workers", "cluster.cpus_per_worker", "cluster.threads_per_worker", "cluster.gpus")
# Keys under which a user may write anything: examples from records, tokens of a service.
FREE_TEXT = ("data.prompts.", "peft.init_text", "tracking.tags.", "train.deepspeed.")


ABSENT = object()  # a key that is not there; null is a value


def check_unchanged(file: StoragePath, config: Config) -> tuple[str, ...]:
    """Return sentences about the keys that have changed since a run began, all of which may change; () if none has.

    file: config.yaml of the run. Raises InputError if a key that decides the numbers has changed, or if the file cannot be
    read.
    """
    then, now = map(within_storage, (config_at_start(file), leaves(config.model_dump(mode="json"))))
    changed = [key for key in sorted({*then, *now}) if then.get(key, ABSENT) != now.get(key, ABSENT)]
    # If the length of a list has changed, the keys of its sections are not listed.
    lists = tuple(f"{key}[" for key in changed if any(name.startswith(f"{key}[") for name in {*then, *now}))
    changed = [key for key in changed if not key.startswith(lists)]
    free = tuple(_resumable())
    refused = [key for key in changed if not _may_change(key, free)]
    if refused:
        raise InputError(
            f"the run {config.run.name} has checkpoints that were made under another config: "
            + _listed(refused, then, now),
            key=refused[0],
            fix=f"restore the old values ({file} has them), use another run.name, or start from scratch with --overwrite",
        )
    return tuple(_change_notes(changed, then, now))


def within_storage(known: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the paths of model and tokenizer relative to run.storage, if they are in there.

    A later stage begins from the folder of the stage before, and the storage may be moved.
    """
    stored = f"{known.get('run.storage')}/"
    found = dict(known)
    for key in ("model.name", "data.tokenizer"):
        value = known.get(key)
        if isinstance(value, str) and value.startswith(stored):
            found[key] = value.removeprefix(stored)
    return found


def check_adalora_length(file: StoragePath, config: Config) -> None:
    """Raise InputError if an AdaLoRA run becomes shorter: so far, its ranks were cut by the longer schedule.

    file: config.yaml of the run.
    """
    then, now = config_at_start(file), leaves(config.model_dump(mode="json"))
    if config.peft.type != "adalora" or not length_changed(then, now):
        return
    key = "train.max_steps" if now["train.max_steps"] is not None else "train.epochs"
    if not is_number(before := then.get(key)) or now[key] < before:
        raise InputError(
            f"AdaLoRA shrinks the ranks of the run {config.run.name} over its whole length, which was longer when it began",
            key=key,
            value=now[key],
            fix=f"use the old length ({file} has it), a longer one, or another run.name",
        )


def check_same_data(file: StoragePath, tokens: str, config: Config) -> None:
    """Raise InputError if the run's checkpoints were trained on other token shards than those at `tokens`.

    file: data.json of the run, which names them. The name of the folder is a hash of everything that decides the tokens.
    """
    then = _recorded(file, "tokens")
    if then is not None and Path(then).parts[-2:] != Path(tokens).parts[-2:]:
        raise InputError(
            f"the run {config.run.name} has checkpoints of other data: a file of data.train, its tokenizer or the way "
            "rows become tokens has changed since",
            key="run.name",
            value=config.run.name,
            fix="use another run.name, or restore the files",
        )


def check_same_precision(file: StoragePath, precision: str, config: Config) -> None:
    """Raise InputError if the run's checkpoints were trained in another precision, because `auto` follows the device.

    file: data.json of the run. precision: fp32, bf16 or fp16.
    """
    then = _recorded(file, "precision")
    if then not in (None, precision):
        raise InputError(
            f"the run {config.run.name} was trained in {then} so far, and would continue in {precision} on this device",
            key="train.precision",
            value=config.train.precision,
            fix=f"set train.precision: {then}",
        )


def check_same_weights(file: StoragePath, weights: str | None, config: Config) -> None:
    """Raise InputError if the run began with other weights: its reference model would not be the one of its earlier steps.

    file: data.json of the run. weights: name of the weights, for a method with a stored reference; None for others.
    """
    then = _recorded(file, "reference")
    if weights is not None and then not in (None, weights):
        raise InputError(
            f"the run {config.run.name} uses the weights that it began with as the reference model, and these have changed since",
            key="model.adapter" if config.model.adapter else "model.name",
            value=config.model.adapter or config.model.name or config.model.preset,
            fix="restore the weights, use another run.name, or start from the beginning with --overwrite",
        )


def recorded_threads(file: StoragePath, data: StoragePath, config: Config) -> int | None:
    """Return the compute threads of each worker with which a run began, because their number changes the rounding of sums.

    None if the run does not say, or if the config now asks for other workers or threads, so that they are decided again.
    file, data: config.yaml and data.json of the run.
    """
    then, now = config_at_start(file), leaves(config.model_dump(mode="json"))
    threads = _recorded(data, "threads")
    if any(then.get(key) != now[key] for key in SHARES) or not (threads or "").isdecimal():
        return None
    return int(threads or 0) or None


def recorded_gpus(data: StoragePath) -> int | None:
    """Return the GPUs of each worker with which a run began; None if its data.json is damaged or missing, or lacks them."""
    try:
        gpus = _recorded(data, "gpus")
    except (OSError, InputError):  # `claim` says what is wrong with it
        return None
    return int(gpus) if gpus in ("0", "1") else None


def recorded_rows(data: StoragePath) -> int | None:
    """Return the rows of a micro-batch that the plan gave a run at its beginning; None if the plan gave none."""
    try:
        rows = _recorded(data, "micro_batch_size") or ""
    except (OSError, InputError):  # `claim` says what is wrong with it
        return None
    return int(rows) if rows.isdecimal() and int(rows) > 0 else None


def _recorded(file: StoragePath, name: str) -> str | None:
    """Return a value of the data.json of a run; None if it is missing."""
    return files.read_data_notes(file).get(name)


def _may_change(key: str, free: tuple[str, ...]) -> bool:
    name = re.sub(r"\[\d+\]", "[]", key)
    return any(name == one or name.startswith(f"{one}.") for one in free)


def _resumable() -> Iterator[str]:
    """Yield dotted keys, with [] after a list of sections: data.train[].path."""
    for key, field in fields(Config):
        extra: Any = field.json_schema_extra or {}
        if extra.get("resumable"):
            yield key


def _change_notes(changed: list[str], then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if changed:
        yield f"changed since the run began, and used with the new value: {_listed(changed, then, now)}"
    course, warmup = now["train.scheduler.name"], now["train.scheduler.warmup_steps"]
    by_length = not course.startswith("constant") or (
        warmup is None and now["train.scheduler.warmup_ratio"] > 0
    )
    if by_length and length_changed(then, now):
        yield (
            f"the learning rate (train.scheduler.name: {course}) follows the new length from here on: the weights "
            "will differ from those of a run that had this length from its start"
        )
    if any(key in ROUNDING for key in changed):
        yield (
            "the batches stay the same but are split differently across the workers: numbers agree to rounding, not bit "
            "for bit, and dropout draws other elements"
        )


def length_changed(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the two configs ask for different numbers of steps."""
    old, new = ((one.get("train.max_steps"), one.get("train.epochs")) for one in (then, now))
    return old[0] != new[0] or (new[0] is None and old[1] != new[1])


def _listed(keys: list[str], then: dict[str, Any], now: dict[str, Any]) -> str:
    found = [_change(key, then.get(key, ABSENT), now.get(key, ABSENT)) for key in keys[:MOST_SHOWN]]
    more = f" (and {len(keys) - MOST_SHOWN} more)" if len(keys) > MOST_SHOWN else ""
    return ", ".join(found) + more


def _change(key: str, old: Any, new: Any) -> str:
    before, after = shown(key, old), shown(key, new)
    return f"{key} {before} -> {after}" if before != after else f"{key} (its values are not shown)"


def shown(key: str, value: Any, longest: int = LONGEST_SHOWN) -> str:
    """Return a value of a key as text that is safe to show: without credentials in URLs, and without free text."""
    if value is ABSENT:
        return "none"
    safe = _without_secrets(value, hide=key.startswith(FREE_TEXT))
    text = printable(safe if isinstance(safe, str) else json.dumps(safe, default=str))
    return text if len(text) <= longest else f"{text[:longest]}..."


def _without_secrets(value: Any, *, hide: bool) -> Any:
    """Return a value that is safe to show. A URL loses what is before its host and after its path: passwords, signatures.

    hide: replace every text.
    """
    if isinstance(value, list):
        return [_without_secrets(item, hide=hide) for item in value]
    if not isinstance(value, str):
        return value
    if hide:
        return "(text)"
    if "://" in value:
        value = re.sub(r"://.*@", "://***@", value, flags=re.DOTALL)
        value = re.sub(r"[?#;].*", "?***", value, flags=re.DOTALL)
    return value


def flat(tree: dict[str, Any]) -> dict[str, str]:
    """Return dotted keys with their values as text: a string as it is, anything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values(tree).items()
    }


def leaves(tree: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys with their values. A list of sections has its length under its own key: data.train, data.train[0].path."""
    return values(tree, lambda entries: any(isinstance(entry, dict) for entry in entries))


def config_at_start(file: StoragePath) -> dict[str, Any]:
    """Return the config that a run began with; a key that is newer than the run had its default."""
    try:
        tree = parse(files.read_config(file))
    except (OSError, ValueError, NotYamlError, InputError):
        tree = None
    if not isinstance(tree, dict):
        raise InputError(
            "the config that this run began with cannot be read",
            file=file,
            fix="bring the file back, use another run.name, or start from scratch with --overwrite",
        )
    return leaves(Config().model_dump(mode="json")) | leaves(tree)
