"""The stages of one YAML, one run after another, each on the weights of the one before.

    run folder <name>.1-pre ──▶ merged ──▶ run folder <name>.2-pairs ──▶ merged ──▶ run folder <name>.3-post

A stage is a whole run with its own checkpoints, report and MLflow run. Where it trained an adapter, that is merged into
the weights under it, in the type that training used; the next stage begins from there. All of it can be killed at any
moment: a finished stage or merge is found again and never repeated, so the same command resumes. The folder
`<run.name>` itself holds the lock of the whole, its stop file, the id of its MLflow run (`parent_run`), and the summary
with a line per stage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medray import storage, train
from medray.config import Config, dump
from medray.config.peft import PROMPT_TYPES
from medray.config.stages import checkable, ignored_keys, stage_configs, weights_folder
from medray.errors import InputError, StoppedError
from medray.report.console import Console
from medray.stages.parent_run import end, ended_on_error, parent_run
from medray.storage import StoragePath
from medray.storage.json_files import is_count
from medray.train.driver.tracking import send_unsent
from medray.train.run_folder import files, lock
from medray.train.run_folder.earlier_run import finished_result, move_aside
from medray.train.run_folder.files import RunResult, folder_of
from medray.train.run_folder.finished_run import finished_run
from medray.train.stop import StopSwitch, watching

Say = Callable[[str, str], None]


def checkable_configs(config: Config) -> tuple[Config, ...]:
    """Return the configs that can be checked before anything has run: of all stages, or the config itself."""
    return checkable(stage_configs(config)) if config.stages else (config,)


def finished_whole(config: Config) -> RunResult | None:
    """Return the result of a run, or of all its stages, that is done; None where something is left to do."""
    if not config.stages:
        return finished_result(config)
    summary = _summary(folder_of(config))
    if (
        summary is None
        or summary.get("status") != "done"
        or not all(map(finished_result, stage_configs(config)))
    ):
        return None
    return RunResult(folder_of(config), summary)


def last_stage(config: Config, result: RunResult) -> RunResult:
    """Return the result of a whole with the folder of the stage that ran last: it has the report and the export."""
    if not config.stages:
        return result
    return RunResult(result.folder.parent / result.summary["stages"][-1]["folder"], result.summary)


def move_aside_whole(config: Config) -> StoragePath | None:
    """Move a run of this name out of the way, and each of its stages. Returns where the run is now, None without one."""
    moved = [move_aside(each) for each in (*stage_configs(config), config)]
    return next((place for place in reversed(moved) if place is not None), None)


def check(config: Config, **options: Any) -> None:
    """Raise InputError for the first thing in the config, or in any of its stages, that cannot work.

    options: as `medray.train.check` has them. The models of later stages are not written yet, so these stages are checked
    with the model of the first.
    """
    if not config.stages:
        train.check(config, **options)
        return
    configs = stage_configs(config)
    for number, stage in enumerate(configs[:-1], 1):
        if stage.peft.type in PROMPT_TYPES:
            raise InputError(
                f"a {stage.peft.type} cannot be merged into the weights that stage {number + 1} begins from",
                key=f"stages.{number}.peft.type",
                value=stage.peft.type,
                fix="use peft.type: lora in this stage, or make it the last one",
            )
    for number, given in enumerate(config.stages[1:], 2):
        for name in ignored_keys(given):
            raise InputError(
                "has no effect: from the second stage on, model and tokenizer are those of the stage before",
                key=f"stages.{number}.{name}",
                fix="remove the key",
            )
    for number, stage in enumerate(checkable(configs), 1):
        try:
            train.check(stage, **options)
        except InputError as error:
            key = f"stages.{number}.{error.key}" if error.key else f"stages.{number}"
            raise InputError(error.what, file=error.file, key=key, value=error.value, fix=error.fix) from None


def run(
    config: Config,
    *,
    callbacks: Sequence[Any] = (),
    console: Console | None = None,
    stop: StopSwitch | None = None,
    config_file: str | Path | None = None,
    force: bool = False,
) -> RunResult:
    """Run the stages of `config` in order on the connected Ray cluster, to the end or to a stop.

    Returns the summary of the whole, with that of each stage under `stages`; arguments and errors are those of
    `medray.train.run`. A whole that is done is returned as it is.
    """
    os.umask(0o077)  # what a run leaves holds patients' text
    configs, folder = stage_configs(config), folder_of(config)
    stop = stop or StopSwitch()
    parent = parent_run(config, config_file)

    def say(name: str, detail: str) -> None:
        if console:
            console.phase(name, detail)

    with (
        lock.held(folder, lambda text: say("lock", text)),
        watching(folder, stop),
        ended_on_error(config, parent, say),
    ):
        storage.write(folder / files.CONFIG, dump(config))
        done: list[RunResult] = []
        for number, stage in enumerate(configs, 1):
            result = finished_result(stage)
            if result is None:
                _refuse_later_stages(configs, number)
                _mark(storage.at(weights_folder(stage))).unlink(missing_ok=True)  # of weights that change now
                say(
                    "stage", f"{number} of {len(configs)}, {config.stages[number - 1].name}: {stage.run.name}"
                )
                result = train.run(
                    stage,
                    callbacks=callbacks,
                    console=console,
                    stop=stop,
                    config_file=config_file,
                    parent=parent,
                    force=force,
                )
            else:
                send_unsent(stage, result, say, config_file, parent)
                say(
                    "stage",
                    f"{number} of {len(configs)}, {config.stages[number - 1].name}, was finished before",
                )
            done.append(result)
            if result.summary["status"] != "done":
                break
            if number < len(configs):
                if stop.reason:
                    raise StoppedError(f"stopped after stage {number}. Run the same command again to resume")
                merge(stage, say)
        whole = _summarized(config, folder, done)
        if parent is not None:
            end(parent, whole, say)
        return whole


def merge(config: Config, say: Say) -> StoragePath:
    """Write the merged model of a finished stage, unless it is there, and return its folder.

    A stage that trained all weights has nothing to merge: its export is the model. Raises RunFailedError where the
    merged weights are not those of the run, InputError where they cannot be made.
    """
    target = storage.at(weights_folder(config))
    if config.peft.type == "none" or is_whole(target):
        return target
    from medray.release.release import release
    from medray.release.wanted import Wanted

    storage.remove_tree(target)
    trained = finished_run(str(folder_of(config)))
    # What the run wrote down has the paths of its time; the storage may have been moved since.
    trained = replace(trained, config=trained.config.model_copy(update={"model": config.model}))
    say("merge", f"the adapter of {config.run.name} into its base")
    try:
        release(trained, Wanted(format="merged"), target, say)
    except InputError as error:
        if error.key != "--dtype":
            raise
        say("merge", f"{error.value} would lose part of what was trained: the merged weights are float32")
        release(trained, Wanted(format="merged", dtype="fp32"), target, say)
    storage.write(_mark(target), json.dumps(storage.sizes(target)))
    return target


def is_whole(target: StoragePath) -> bool:
    """Return whether a merged model is complete: written to its end, and with all of its files."""
    try:
        sizes = storage.read_json(_mark(target))
        return bool(sizes) and all(map(is_count, sizes.values())) and sizes == storage.sizes(target)
    except (OSError, InputError):
        return False


def _refuse_later_stages(configs: Sequence[Config], number: int) -> None:
    """Raise InputError if a stage after an unfinished one has begun: it did so from weights that will not be the same."""
    for later in configs[number:]:
        if (folder_of(later) / files.CONFIG).exists():
            raise InputError(
                f"it began from the weights of stage {number}, which would be trained again now",
                file=folder_of(later),
                key="run.name",
                value=configs[0].run.name.rpartition(".")[0],
                fix="restore the config and the files of the earlier stage, use another run.name, or start all stages from the "
                "beginning with --overwrite",
            )


def _summary(folder: StoragePath) -> dict[str, Any] | None:
    try:
        return files.read_summary(folder)
    except (OSError, InputError):
        return None


def _mark(target: StoragePath) -> StoragePath:
    """Return the file next to a merged model that lists its files. It is written last."""
    return target.with_name(f"{target.name}.json")


def _summarized(config: Config, folder: StoragePath, done: Sequence[RunResult]) -> RunResult:
    """Write the summary of the whole: that of the stage that came last, with a line for each stage."""
    last = done[-1].summary
    whole = len(done) == len(config.stages)
    lines = [
        {"name": stage.name, "folder": result.folder.name}
        | {name: result.summary.get(name) for name in ("status", "steps", "train_loss_last", "eval")}
        for stage, result in zip(config.stages, done, strict=False)
    ]
    status = last["status"] if whole or last["status"] != "done" else "stopped"
    summary = last | {"name": config.run.name, "status": status, "stages": lines}
    storage.write(folder / files.SUMMARY, json.dumps(summary, indent=2) + "\n")
    return RunResult(folder, summary)
