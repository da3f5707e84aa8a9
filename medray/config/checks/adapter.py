"""What the keys of `peft` and `model` contradict each other in, adapters and 4-bit weights above all."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.checks.adapter_folder import PEFT_NAMES, is_adapter, read_adapter, read_settings
from medray.config.peft import PROMPT_TYPES
from medray.errors import InputError


def check_adapter(config: Config) -> None:
    """Raises InputError for the first thing that cannot work."""
    _check_keys(config)
    _check_adalora(config)
    _check_dora(config)
    _check_prompts(config)
    _check_quantization(config)
    _check_start(config)


def _check_keys(config: Config) -> None:
    peft = config.peft
    if names := peft.without_effect:
        raise InputError(
            f"has no effect with peft.type: {peft.type}",
            key=f"peft.{names[0]}",
            value=None if names[0] in ("adalora", "init_text") else getattr(peft, names[0]),
            fix="leave it out, or set the peft.type that it is for",
        )
    if peft.type in ("lora", "adalora") and not peft.targets:
        raise InputError("names no module", key="peft.targets", value=[], fix="peft.targets: all-linear")
    if peft.type == "multitask_prompt" and len(config.method.tasks) < 2:
        raise InputError(
            "tells a label task and a rationale task apart, and this run has one task",
            key="peft.type",
            value=peft.type,
            fix="peft.type: prompt, or method.name: distill with method.mode: task_prefix",
        )


def _check_adalora(config: Config) -> None:
    peft, train = config.peft, config.train
    if peft.type != "adalora":
        return
    ranks = peft.adalora
    if ranks.target_rank >= ranks.init_rank:
        raise InputError(
            f"ranks shrink from peft.adalora.init_rank, which is {ranks.init_rank}",
            key="peft.adalora.target_rank",
            value=ranks.target_rank,
            fix=f"peft.adalora.target_rank: {ranks.init_rank // 2}, or peft.type: lora for a fixed rank",
        )
    if train.max_steps is not None:  # else the data decide how many there are
        ranks.fixed_steps(train.max_steps)
    if train.zero_stage > 0:
        raise InputError(
            "adalora decides by whole gradients, which ZeRO has sharded: above stage 0 its ranks would never change",
            key="train.zero_stage",
            value=train.zero_stage,
            fix="train.zero_stage: 0, or peft.type: lora",
        )
    if train.precision in ("bf16", "fp16"):
        raise InputError(
            "adalora needs the gradients of a float32 run",
            key="train.precision",
            value=train.precision,
            fix="train.precision: fp32, or peft.type: lora",
        )


def _check_dora(config: Config) -> None:
    if config.peft.dora and config.train.zero_stage == 3:
        raise InputError(
            "dora needs the norms of whole weights, which stage 3 has sharded",
            key="train.zero_stage",
            value=3,
            fix="train.zero_stage: 2, or peft.rslora in place of peft.dora",
        )


def _check_prompts(config: Config) -> None:
    peft, data, train = config.peft, config.data, config.train
    if peft.type not in PROMPT_TYPES:
        return
    if data.pack_tokens is not None:
        raise InputError(
            f"rows that are packed together would share one {peft.type}",
            key="data.pack_tokens",
            value=data.pack_tokens,
            fix="data.pack_tokens: null and data.length_buckets: true, or peft.type: lora",
        )
    if config.method.variant == "cosine":
        raise InputError(
            "a prefix reaches the decoder alone, and what it compares is the encoder's"
            if peft.type == "prefix"
            else f"the encodings that it compares would be those of the virtual tokens of peft.type: {peft.type} too",
            key="method.variant",
            value="cosine",
            fix="peft.type: lora, or another method.variant",
        )
    if peft.type == "prefix" and train.gradient_checkpointing:
        raise InputError(
            "a prefix lies in the cache of keys and values, which is not there when activations are recomputed",
            key="train.gradient_checkpointing",
            value=True,
            fix="train.gradient_checkpointing: false, or peft.type: lora or prompt",
        )


def _check_quantization(config: Config) -> None:
    model, train = config.model, config.train
    if model.quantization == "none":
        for name, value, default in (
            ("double_quantization", model.double_quantization, True),
            ("compute_dtype", model.compute_dtype, "auto"),
        ):
            if value != default:
                raise InputError(
                    "has no effect with model.quantization: none",
                    key=f"model.{name}",
                    value=value,
                    fix="leave it out, or model.quantization: nf4",
                )
        return

    def refused(what: str, fix: str) -> InputError:
        return InputError(what, key="model.quantization", value=model.quantization, fix=fix)

    if config.peft.type == "none":
        raise refused("4-bit weights cannot be trained themselves", "peft.type: lora")
    if model.init == "random":
        raise refused("random weights are made, not loaded", "model.init: pretrained")
    if train.zero_stage == 3:
        raise InputError(
            "4-bit weights are whole on every worker, and stage 3 would shard them: that has not been shown to be right",
            key="train.zero_stage",
            value=3,
            fix="train.zero_stage: 2, or model.quantization: none",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise refused(
            "the package bitsandbytes is not installed", "pip install 'medray[quant]', on every node"
        )


def _check_start(config: Config) -> None:
    """The adapter that a run goes on from."""
    name, peft = config.model.adapter, config.peft
    if name is None:
        return

    def refused(what: str, fix: str) -> InputError:
        return InputError(what, key="model.adapter", value=name, fix=fix)

    if config.model.init == "random":
        raise refused(
            "was trained beside certain weights, and model.init: random draws others",
            "model.init: pretrained, with the base of that adapter as model.name",
        )
    settings = _settings(name)
    for key, plain in (("modules_to_save", (None, [])), ("bias", (None, "none"))):
        if settings.get(key) not in plain:
            raise refused(
                f"its {key} makes it more than an adapter: such weights are neither counted nor merged",
                "merge it into the model, or begin without model.adapter",
            )
    kind = PEFT_NAMES[settings["peft_type"]]
    if kind == "adalora":
        raise refused(
            "the ranks of an adalora adapter are cut already and cannot shrink again",
            "merge it into the model, or begin without model.adapter",
        )
    if kind != peft.type:
        raise refused(
            f"the adapter there is of type {kind}, and peft.type is {peft.type}", f"peft.type: {kind}"
        )
    fields = type(peft).model_fields
    for key in fields:
        value, default = getattr(peft, key), fields[key].get_default(call_default_factory=True)
        own = _in_adapter(settings, key)
        if isinstance(value, tuple) and isinstance(own, tuple):  # targets: peft writes a set
            value, own = sorted(value), sorted(own)
        if key != "type" and value not in (default, own):
            raise InputError(
                "the adapter that the run goes on from has settings of its own",
                key=f"peft.{key}",
                value=value,
                fix="leave it out, or begin without model.adapter",
            )
    read_adapter(Path(name))


def _settings(folder: str) -> dict[str, Any]:
    if not is_adapter(folder):
        raise InputError(
            "is no folder with adapter_config.json and adapter_model.safetensors",
            key="model.adapter",
            value=folder,
            fix="the folder `export` of a run with an adapter",
        )
    return read_settings(Path(folder))


def _in_adapter(settings: dict[str, Any], key: str) -> Any:
    """What the adapter itself has for a key of `peft`."""
    names = {
        "rank": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "targets": "target_modules",
        "rslora": "use_rslora",
        "dora": "use_dora",
        "virtual_tokens": "num_virtual_tokens",
        "task_rank": "num_ranks",
    }
    found = settings.get(names.get(key, ""))
    return tuple(found) if isinstance(found, list) else found
