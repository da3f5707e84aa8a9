"""Checks for contradictions between keys of `peft` and `model`, mainly about adapters and 4-bit weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.config.checks.adapter_folder import PEFT_NAMES, is_adapter, read_adapter, read_settings
from medray.config.method_specs import spec_of
from medray.config.peft import PROMPT_TYPES
from medray.errors import InputError


def check_adapter(config: Config, *, planned: bool = False) -> None:
    """Raise InputError for the first setting of `peft` or `model` that cannot work with the others.

    planned: this machine need not have the package for 4-bit weights, and the adapter of model.adapter.
    """
    _check_keys(config)
    _check_adalora(config)
    _check_dora(config)
    _check_prompts(config)
    _check_quantization(config, planned=planned)
    if not planned:
        _check_start(config)


def _check_keys(config: Config) -> None:
    peft = config.peft
    if names := peft.without_effect:
        raise InputError(
            f"this key has no effect with peft.type: {peft.type}",
            key=f"peft.{names[0]}",
            value=None if names[0] in ("adalora", "init_text") else getattr(peft, names[0]),
            fix="remove it, or set the peft.type that uses it",
        )
    if peft.type in ("lora", "adalora") and not peft.targets:
        raise InputError(
            "the list is empty, so no module would get an adapter",
            key="peft.targets",
            value=[],
            fix="set peft.targets: all-linear",
        )
    prompts = {(task.prompt, task.key) for task in spec_of(config.method).tasks}
    if peft.type == "multitask_prompt" and len(prompts) < 2:
        raise InputError(
            "needs a label task and a rationale task, but this run has one task",
            key="peft.type",
            value=peft.type,
            fix="set peft.type: prompt, or method.name: distill with method.mode: task_prefix",
        )


def _check_adalora(config: Config) -> None:
    peft, train = config.peft, config.train
    if peft.type != "adalora":
        return
    ranks = peft.adalora
    if ranks.target_rank >= ranks.init_rank:
        raise InputError(
            f"this rank must be below peft.adalora.init_rank, which is {ranks.init_rank}, because ranks shrink",
            key="peft.adalora.target_rank",
            value=ranks.target_rank,
            fix=f"set peft.adalora.target_rank: {ranks.init_rank // 2}, or peft.type: lora for a fixed rank",
        )
    if train.max_steps is not None:  # otherwise the number of steps depends on the data
        ranks.fixed_steps(train.max_steps)
    if train.zero_stage > 0:
        raise InputError(
            "adalora needs full gradients, but ZeRO stage 1 and above shards them, so its ranks would never change",
            key="train.zero_stage",
            value=train.zero_stage,
            fix="set train.zero_stage: 0, or peft.type: lora",
        )
    if train.precision in ("bf16", "fp16"):
        raise InputError(
            "adalora needs float32 gradients",
            key="train.precision",
            value=train.precision,
            fix="set train.precision: fp32, or peft.type: lora",
        )


def _check_dora(config: Config) -> None:
    if config.peft.dora and config.train.zero_stage == 3:
        raise InputError(
            "dora needs the norms of full weights, but ZeRO stage 3 shards them",
            key="train.zero_stage",
            value=3,
            fix="set train.zero_stage: 2, or use peft.rslora instead of peft.dora",
        )


def _check_prompts(config: Config) -> None:
    peft, data, train = config.peft, config.data, config.train
    if peft.type not in PROMPT_TYPES:
        return
    if data.pack_tokens is not None:
        raise InputError(
            f"rows packed into one sequence would share one {peft.type}, but each row needs its own",
            key="data.pack_tokens",
            value=data.pack_tokens,
            fix="set data.pack_tokens: null and data.length_buckets: true, or peft.type: lora",
        )
    if (encodings := spec_of(config.method).encodings) is not None:
        raise InputError(
            "it compares encodings of the encoder, but a prefix changes the decoder only"
            if peft.type == "prefix"
            else f"the encodings that it compares would include the virtual tokens of peft.type: {peft.type}",
            key=encodings.key,
            value=encodings.value,
            fix=f"set peft.type: lora, or {encodings.without}",
        )
    if peft.type == "prefix" and train.gradient_checkpointing:
        raise InputError(
            "peft.type: prefix stores its prefix in the cache of keys and values, which gradient checkpointing switches off",
            key="train.gradient_checkpointing",
            value=True,
            fix="set train.gradient_checkpointing: false, or peft.type: lora or prompt",
        )


def _check_quantization(config: Config, *, planned: bool) -> None:
    model, train = config.model, config.train
    if model.quantization == "none":
        for name, value, default in (
            ("double_quantization", model.double_quantization, True),
            ("compute_dtype", model.compute_dtype, "auto"),
        ):
            if value != default:
                raise InputError(
                    "this key has no effect with model.quantization: none",
                    key=f"model.{name}",
                    value=value,
                    fix="remove it, or set model.quantization: nf4",
                )
        return

    def refused(what: str, fix: str) -> InputError:
        return InputError(what, key="model.quantization", value=model.quantization, fix=fix)

    if config.peft.type == "none":
        raise refused("4-bit weights cannot be trained without an adapter", "set peft.type: lora")
    if model.init == "random":
        raise refused(
            "only pretrained weights can be quantized, not random ones", "set model.init: pretrained"
        )
    if train.zero_stage == 3:
        raise InputError(
            "ZeRO stage 3 with 4-bit weights is not supported, because sharding such weights is untested",
            key="train.zero_stage",
            value=3,
            fix="set train.zero_stage: 2, or model.quantization: none",
        )
    if not planned and importlib.util.find_spec("bitsandbytes") is None:
        raise refused(
            "the package bitsandbytes is not installed", "run pip install 'medray[quant]' on every node"
        )


def _check_start(config: Config) -> None:
    """Raise InputError if the run cannot start from model.adapter."""
    name, peft = config.model.adapter, config.peft
    if name is None:
        return

    def refused(what: str, fix: str) -> InputError:
        return InputError(what, key="model.adapter", value=name, fix=fix)

    if config.model.init == "random":
        raise refused(
            "an adapter fits only the weights of its base model, but model.init is random",
            "set model.init: pretrained, and model.name to the base model of the adapter",
        )
    settings = _settings(name)
    for key, plain in (("modules_to_save", (None, [])), ("bias", (None, "none"))):
        if settings.get(key) not in plain:
            raise refused(
                f"{key} in its adapter_config.json adds weights that medray can neither count nor merge",
                "merge the adapter into its base model and set model.name to the result, or remove model.adapter",
            )
    kind = PEFT_NAMES[settings["peft_type"]]
    if kind == "adalora":
        raise refused(
            "the ranks of an adalora adapter are already reduced and cannot shrink again",
            "merge the adapter into its base model and set model.name to the result, or remove model.adapter",
        )
    if kind != peft.type:
        raise refused(
            f"the adapter has the type {kind}, but peft.type is {peft.type}", f"set peft.type: {kind}"
        )
    fields = type(peft).model_fields
    for key in fields:
        value, default = getattr(peft, key), fields[key].get_default(call_default_factory=True)
        own = _in_adapter(settings, key)
        if isinstance(value, tuple) and isinstance(own, tuple):  # targets: peft writes a set
            value, own = sorted(value), sorted(own)
        if key != "type" and value not in (default, own):
            raise InputError(
                "this value differs from that of the adapter in model.adapter, from which the run starts",
                key=f"peft.{key}",
                value=value,
                fix="remove this key, or remove model.adapter",
            )
    read_adapter(Path(name))


def _settings(folder: str) -> dict[str, Any]:
    if not is_adapter(folder):
        raise InputError(
            "this is not a folder with adapter_config.json and adapter_model.safetensors",
            key="model.adapter",
            value=folder,
            fix="use the folder `export` of a run that trained an adapter",
        )
    return read_settings(Path(folder))


def _in_adapter(settings: dict[str, Any], key: str) -> Any:
    """Return the adapter's own value for a key of `peft`."""
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
