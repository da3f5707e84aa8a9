"""The start of a run from a checkpoint of another run, `run.begin_from`: which checkpoint, and whether it fits.

Only the trained weights are taken: the new run has its own step 0, schedule, data order and optimizer. All checks that
need no weights are made here, by the driver; the workers compare the names and sizes of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.method_specs import spec_of
from medray.config.run import begin_of
from medray.errors import InputError
from medray.storage import StoragePath
from medray.train import checkpoint
from medray.train.checkpoint.beginning import Beginning
from medray.train.run_folder import changes, files
from medray.train.run_folder.files import folder_of

KEY = "run.begin_from"
NOTE, TOKENIZER = "begin_from", "tokenizer"  # keys in data.json
# Keys of `peft` that change neither the weights of an adapter nor what the model computes with them.
_FREE = ("peft.dropout", "peft.init_text")
_MODEL = ("model.name", "model.init", "model.preset", "model.quantization", "data.tokenizer")


def beginning(config: Config) -> Beginning | None:
    """Return the checkpoint that a new run begins from; None for a run that has checkpoints of its own, or no such key.

    Raises InputError if there is no such run or step, or if its weights do not fit this run.
    """
    text = config.run.begin_from
    if text is None or checkpoint.newest(folder_of(config) / "checkpoints") is not None:
        return None
    _check_own_keys(config)
    location, step = begin_of(text)
    folder = storage.at(location)
    storage.check_reachable(folder)
    if str(folder) == str(folder_of(config)):
        raise _refused(config, "a run cannot begin from itself", "remove the key: the same run.name resumes")
    if not (folder / files.CONFIG).exists():
        raise _refused(
            config, f"{folder} is not the folder of a run", "use the folder <run.storage>/<run.name> of a run"
        )
    _check_same(config, folder)
    found = {each.progress.step: each for each in checkpoint.complete(folder / "checkpoints")}
    if not found:
        raise _refused(
            config,
            f"the run {folder.name} has no complete checkpoint",
            "train that run first, or use its export as model.name or model.adapter",
        )
    chosen = found.get(max(found) if step is None else step)
    if chosen is None:
        steps = ", ".join(map(str, sorted(found)))
        raise _refused(
            config,
            f"the run {folder.name} has no checkpoint of step {step}, but of {steps}",
            f"use {folder}@{max(found)}; train.keep_checkpoints and train.save_every_steps decide which are kept",
        )
    return Beginning(folder=str(chosen.folder), run=folder.name, step=chosen.progress.step)


def check_tokenizer(config: Config, tokenizer: str) -> None:
    """Raise InputError if the other run was trained with another tokenizer. tokenizer: folder of the run's own."""
    if config.run.begin_from is None or config.data.tokenizer != "train":
        return  # the other config has the same data.tokenizer and model
    folder = storage.at(begin_of(config.run.begin_from)[0])
    if files.read_data_notes(folder / files.DATA).get(TOKENIZER) != named_tokenizer(tokenizer):
        raise _refused(
            config,
            f"the run {folder.name} has trained another tokenizer, from other records, so its token ids mean other words",
            "use the data of that run, or set data.tokenizer in both runs to the same folder",
        )


def named_tokenizer(tokenizer: str) -> str:
    """Return the name of a tokenizer for data.json: for a trained one, a hash of what it was trained on."""
    return Path(tokenizer).name


def _check_own_keys(config: Config) -> None:
    reference = spec_of(config.method).reference
    if reference is not None:
        raise _refused(
            config,
            f"method.{config.method.name} compares with a reference model, which would be the model without these weights",
            "export that run, and set model.name or model.adapter to the export",
        )
    if config.peft.type == "adalora":
        raise _refused(
            config,
            "the ranks of an adalora adapter are already reduced and cannot shrink again",
            "use peft.type: lora in both runs",
        )
    if config.model.adapter is not None:
        raise _refused(
            config,
            "model.adapter also says which adapter the run begins with",
            "remove one of the two keys",
        )


def _check_same(config: Config, folder: StoragePath) -> None:
    """Raise InputError for the first key of the other run that makes another model, adapter or tokenizer."""
    then = changes.within_storage(changes.config_at_start(folder / files.CONFIG))
    now = changes.within_storage(changes.leaves(config.model_dump(mode="json")))
    for key in _compared(config, then, now):
        before, here = then.get(key, changes.ABSENT), now.get(key, changes.ABSENT)
        if before != here:
            was, asked = changes.shown(key, before), changes.shown(key, here)
            raise _refused(
                config,
                f"the run {folder.name} has {key}: {was}, but this run has {asked}; its weights fit only the same model, "
                "adapter and tokenizer",
                f"set {key}: {was}, or begin from another run",
            )


def _compared(config: Config, then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    yield from _MODEL
    yield from (key for key in sorted({*then, *now}) if key.startswith("peft.") and key not in _FREE)
    if config.model.init == "random" and config.peft.type != "none":
        yield "run.seed"  # it draws the weights under the adapter


def _refused(config: Config, what: str, fix: str) -> InputError:
    return InputError(what, key=KEY, value=config.run.begin_from, fix=fix)
