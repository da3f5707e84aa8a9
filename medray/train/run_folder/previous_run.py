"""A run name that was used before: finished, to be gone on with, begun under another config, or to be put aside."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.dotted import fields, values
from medray.config.yaml_text import NotYamlError, parse
from medray.errors import InputError, printable
from medray.storage import StoragePath
from medray.storage.json_files import is_number
from medray.train.run_folder import files, lock
from medray.train.run_folder.finished_run import has_export

MOST_SHOWN = 5
LONGEST_SHOWN = 80  # characters of a value
# How a global batch lies on the cluster: sums are rounded in another order, and dropout draws other elements.
ROUNDING = (
    "cluster.workers",
    "cluster.cpus_per_worker",
    "cluster.threads_per_worker",
    "cluster.gpus",
    "train.micro_batch_size",
    "train.gradient_accumulation_steps",
    "train.zero_stage",
)
# What decides the threads of a worker, the cluster aside.
SHARES = ("cluster.workers", "cluster.cpus_per_worker", "cluster.threads_per_worker", "cluster.gpus")
# Keys under which a user may write anything: examples out of records, tokens of a service.
FREE_TEXT = ("data.prompts.", "peft.init_text", "tracking.tags.", "train.deepspeed.")
RUN_FILES = ("config.yaml", "attempts.jsonl", "steps.jsonl", "summary.json", "checkpoints", ".ray")

ABSENT = object()  # a key that is not there; null is a value


@dataclass(frozen=True)
class RunResult:
    """folder: of the run. summary: as in summary.json."""

    folder: StoragePath
    summary: dict[str, Any]


def finished(config: Config) -> RunResult | None:
    """The result of a run that is done, None where there is something left to do.

    A run that shall now be longer goes on, one that shall be shorter is done; one whose export is gone makes it again.
    Raises InputError when another key that decides the numbers has changed, or a file of the data, and where one of the
    run's files is no regular file.
    """
    folder = folder_of(config)
    try:
        summary = files.read_summary(folder)
    except (OSError, InputError):  # the run goes on and writes it again
        return None
    if summary is None or summary["status"] != "done":
        return None
    files.check_files(folder)
    if not (folder / "config.yaml").exists() or not has_export(folder):
        return None
    check_unchanged(folder / "config.yaml", config)
    has_enough = config.train.max_steps is not None and config.train.max_steps <= summary["steps"]
    if not has_enough and _length_changed(
        _then(folder / "config.yaml"), _leaves(config.model_dump(mode="json"))
    ):
        return None
    if tokens := _tokens(config):
        check_same_data(folder / "data.json", tokens, config)
    return RunResult(folder, summary)


def _tokens(config: Config) -> str | None:
    """The folder that the training shards of the data would have as its files are now; reads only those that changed.

    None where a file is gone: a run that is done needs it no more.
    """
    from medray.data.shards.preparation import Preparation
    from medray.plan.model_config import describe

    try:
        model = describe(config.model, config.data.vocab_size)
        layout = Preparation(config, model.architecture, model.folder)
    except InputError:
        return None
    return str(layout.folder / "train")


def check_unchanged(file: StoragePath, config: Config) -> tuple[str, ...]:
    """Sentences on the keys that have changed since a run began, all of them free to; none where nothing has.

    file: config.yaml of the run. Raises InputError when a key that decides the numbers is among them, or when the file
    cannot be read.
    """
    then, now = _then(file), _leaves(config.model_dump(mode="json"))
    changed = [key for key in sorted({*then, *now}) if then.get(key, ABSENT) != now.get(key, ABSENT)]
    # One source more or fewer says it all.
    lists = tuple(f"{key}[" for key in changed if any(name.startswith(f"{key}[") for name in {*then, *now}))
    changed = [key for key in changed if not key.startswith(lists)]
    free = tuple(_resumable())
    refused = [key for key in changed if not _is_free(key, free)]
    if refused:
        raise InputError(
            f"the run {config.run.name} has checkpoints that were made under another config: "
            + _listed(refused, then, now),
            key=refused[0],
            fix=f"give back the old values ({file} has them), use another run.name, or start from scratch with --overwrite",
        )
    return tuple(_notes(changed, then, now))


def check_course_of_ranks(file: StoragePath, config: Config) -> None:
    """Raises InputError where an adalora run shall become shorter: ranks that it has cut by then would be too many.

    file: config.yaml of the run.
    """
    then, now = _then(file), _leaves(config.model_dump(mode="json"))
    if config.peft.type != "adalora" or not _length_changed(then, now):
        return
    key = "train.max_steps" if now["train.max_steps"] is not None else "train.epochs"
    if not is_number(before := then.get(key)) or now[key] < before:
        raise InputError(
            f"the ranks of the run {config.run.name} shrink on a course over its whole length, which was longer",
            key=key,
            value=now[key],
            fix=f"the old length ({file} has it), a longer one, or another run.name",
        )


def check_same_data(file: StoragePath, tokens: str, config: Config) -> None:
    """Raises InputError when the run's checkpoints were trained on other token shards than those at `tokens`.

    file: data.json of the run, which names them. The folder's name is a hash of all that decides the tokens.
    """
    then = _began_with(file, "tokens")
    if then is not None and Path(then).parts[-2:] != Path(tokens).parts[-2:]:
        raise InputError(
            f"the run {config.run.name} has checkpoints of other data: a file of data.train, its tokenizer or the way "
            "rows become tokens has changed since",
            key="run.name",
            value=config.run.name,
            fix="another run.name, or bring the files back as they were",
        )


def check_same_precision(file: StoragePath, precision: str, config: Config) -> None:
    """Raises InputError when the run's checkpoints were trained in another precision: `auto` follows the device.

    file: data.json of the run. precision: fp32, bf16 or fp16.
    """
    then = _began_with(file, "precision")
    if then not in (None, precision):
        raise InputError(
            f"the run {config.run.name} was trained in {then} so far, and would go on in {precision} on this device",
            key="train.precision",
            value=config.train.precision,
            fix=f"train.precision: {then}",
        )


def threads_of(file: StoragePath, data: StoragePath, config: Config) -> int | None:
    """The compute threads of each worker with which a run began: sums of other numbers of threads are rounded otherwise.

    None where the run does not say, and where the config now asks for other workers or threads: those are decided again.
    file, data: config.yaml and data.json of the run.
    """
    then, now = _then(file), _leaves(config.model_dump(mode="json"))
    threads = _began_with(data, "threads")
    if any(then.get(key) != now[key] for key in SHARES) or not (threads or "").isdecimal():
        return None
    return int(threads or 0) or None


def gpus_of(data: StoragePath) -> int | None:
    """The GPUs of each worker with which a run began, None where that is not known: its data.json is damaged or absent."""
    try:
        gpus = _began_with(data, "gpus")
    except (OSError, InputError):  # `claim` says what is wrong with it
        return None
    return int(gpus) if gpus in ("0", "1") else None


def _began_with(file: StoragePath, name: str) -> str | None:
    """What data.json of a run says; None where it does not."""
    return files.read_data_notes(file).get(name)


def set_aside(config: Config) -> StoragePath | None:
    """Renames the run's folder to the first free `<name>.old-N` and returns it; None where there is no such run.

    The next start finds nothing and begins anew, with an MLflow run of its own: which one was the old run's stands in
    the folder. Token shards are in the storage, shared, and stay. Raises InputError while the run goes on, and for a
    folder that no run has written.
    """
    folder = folder_of(config)
    if not folder.is_dir():
        return None
    with lock.held(folder):
        there = {path.name for path in folder.iterdir()} - {lock.FILE}
        if not there:
            return None
        if not there.intersection(RUN_FILES):
            raise InputError(
                f"{folder} holds files, and none of them is a run's",
                key="run.name",
                value=config.run.name,
                fix="another run.name or run.storage",
            )
        aside = next(
            path for number in count(1) if not _there(path := folder.with_name(f"{folder.name}.old-{number}"))
        )
        storage.move(folder, aside)
        if isinstance(aside, Path):  # claims on a run in a bucket lie beside it
            (aside / lock.FILE).unlink(missing_ok=True)
    return aside


def folder_of(config: Config) -> StoragePath:
    return storage.at(config.run.storage) / config.run.name


def _there(path: StoragePath) -> bool:
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def _is_free(key: str, free: tuple[str, ...]) -> bool:
    name = re.sub(r"\[\d+\]", "[]", key)
    return any(name == one or name.startswith(f"{one}.") for one in free)


def _resumable() -> Iterator[str]:
    """Yield dotted keys, with [] after a list of sections: data.train[].path."""
    for key, field in fields(Config):
        extra: Any = field.json_schema_extra or {}
        if extra.get("resumable"):
            yield key


def _notes(changed: list[str], then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if changed:
        yield f"taken as they are now: {_listed(changed, then, now)}"
    course, warmup = now["train.scheduler.name"], now["train.scheduler.warmup_steps"]
    by_length = not course.startswith("constant") or (
        warmup is None and now["train.scheduler.warmup_ratio"] > 0
    )
    if by_length and _length_changed(then, now):
        yield (
            f"the learning rate (train.scheduler.name: {course}) follows the new length from here on: the weights "
            "will not be those of a run that had it from its start"
        )
    if any(key in ROUNDING for key in changed):
        yield (
            "the batches stay the same and lie otherwise on the workers: numbers agree to rounding, not bit for bit, "
            "and dropout draws anew"
        )


def _length_changed(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the run shall have another number of steps."""
    old, new = ((one.get("train.max_steps"), one.get("train.epochs")) for one in (then, now))
    return old[0] != new[0] or (new[0] is None and old[1] != new[1])


def _listed(keys: list[str], then: dict[str, Any], now: dict[str, Any]) -> str:
    found = [_change(key, then.get(key, ABSENT), now.get(key, ABSENT)) for key in keys[:MOST_SHOWN]]
    more = f" (and {len(keys) - MOST_SHOWN} more)" if len(keys) > MOST_SHOWN else ""
    return ", ".join(found) + more


def _change(key: str, old: Any, new: Any) -> str:
    before, after = _shown(key, old), _shown(key, new)
    return f"{key} {before} -> {after}" if before != after else f"{key} (its values are not shown)"


def _shown(key: str, value: Any) -> str:
    if value is ABSENT:
        return "none"
    safe = _without_secrets(value, hide=key.startswith(FREE_TEXT))
    text = printable(safe if isinstance(safe, str) else json.dumps(safe, default=str))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _without_secrets(value: Any, *, hide: bool) -> Any:
    """hide: every text. Of a URL, what stands before its host and behind its path: passwords, signatures."""
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


def _leaves(tree: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys with their values. A list of sections has its length under its own key: data.train, data.train[0].path."""
    return values(tree, lambda entries: any(isinstance(entry, dict) for entry in entries))


def _then(file: StoragePath) -> dict[str, Any]:
    """The config that a run began with; a key that is younger than the run had its default."""
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
    return _leaves(Config().model_dump(mode="json")) | _leaves(tree)
