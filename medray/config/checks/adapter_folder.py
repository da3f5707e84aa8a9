"""Checks of an untrusted adapter folder before peft reads it. Imports neither torch nor peft.

The peft library trusts adapter_config.json: some settings make it import a module by name, unpickle a file, or load a
tokenizer from another folder. So the settings that medray knows are checked one by one, and all others must be empty
(docs/models.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medray import storage
from medray.config.checks.safetensors_header import HeaderError, Tensor, read_header
from medray.errors import InputError

FLOATS = ("F64", "F32", "F16", "BF16")
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# peft.type → the name in peft.
PEFT_NAMES = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "MULTITASK_PROMPT_TUNING": "multitask_prompt",
}
AGAIN = "copy or download the adapter again, or set model.adapter to another adapter"
_LONGEST_NAME = 1000
_MOST = 1_000_000  # upper limit of any count in the settings


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the checked content of adapter_config.json. Raises InputError with the file and the key."""
    file = folder / SETTINGS
    try:
        settings = storage.read_json(file, fix=AGAIN)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, fix=AGAIN) from None
    kind = settings.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_NAMES:
        raise _wrong(
            file,
            "peft_type",
            kind,
            "this type of adapter is not one that medray trains",
            f"use one of {', '.join(PEFT_NAMES)}",
        )
    for key, value in settings.items():
        rule = _RULES.get(key)
        if rule is None:
            if value and key not in _IGNORED:
                raise _wrong(
                    file,
                    key,
                    value,
                    "medray does not load an adapter with this setting",
                    f"remove {key[:100]} from the file if the adapter works without it",
                )
        elif value is not None and not rule[0](value):
            raise _wrong(file, key, value, f"is not {rule[1]}", AGAIN)
    return settings


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the type and shape of each tensor in adapter_model.safetensors, by name.

    Only the header of the file is read. Raises InputError if it is damaged.
    """
    file = folder / WEIGHTS
    try:
        tensors = read_header(file)
    except HeaderError as error:
        raise InputError(str(error), file=file, fix=AGAIN) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(
            f"cannot be read ({reason}); other formats of an adapter's weights are not supported",
            file=file,
            fix=AGAIN,
        ) from None
    return tensors


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checked (settings, tensors) of an adapter.

    Raises InputError if they do not fit: the sizes in the settings may not need more memory than the tensors have.
    """
    settings, tensors = read_settings(folder), read_tensors(folder)
    # AdaLoRA may leave a layer without any rank.
    if not tensors or (
        settings["peft_type"] != "ADALORA" and not all(each.elements for each in tensors.values())
    ):
        raise InputError(
            "the adapter has no weights, or one of its tensors is empty", file=folder / WEIGHTS, fix=AGAIN
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(
                f"the tensor {name[:100]} has the type {tensor.dtype}, which cannot be trained",
                file=folder / WEIGHTS,
                fix=AGAIN,
            )
    widest = max(size for tensor in tensors.values() for size in (*tensor.shape, 1))
    if settings["peft_type"] == "ADALORA":  # the rank pattern keeps the ranks that training left
        pattern = (settings.get("rank_pattern") or {}).values()
        widest = max(widest, *(len(kept) for kept in pattern if isinstance(kept, list)), 1)
    for key in ("r", "init_r", "num_virtual_tokens"):
        if (settings.get(key) or 0) > widest:
            raise _wrong(
                folder / SETTINGS,
                key,
                settings[key],
                f"this size does not fit the adapter's weights, whose largest dimension is {widest:,}",
                AGAIN,
            )
    return settings, tensors


def is_adapter(folder: str) -> bool:
    """Return whether the folder has the two files of an adapter, settings and weights; False for an invalid path."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (SETTINGS, WEIGHTS))


def _wrong(file: Path, key: str, value: Any, what: str, fix: str) -> InputError:
    told = value if isinstance(value, int | float) else str(value)[:100]
    return InputError(what, file=file, key=key[:100], value=told, fix=fix)


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST


def _index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _steps(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME and "\0" not in value


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(_name(each) and each for each in value) and len(value) <= _MOST


def _pattern(value: Any) -> bool:
    """Return whether a regular expression is safe: without repeated groups, which could run forever on a name."""
    if not _name(value) or re.search(r"\)\s*[*+{]", value):
        return False
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _modules(value: Any) -> bool:
    return _pattern(value) or _names(value)


def _by_module(inner: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(_pattern(key) and inner(each) for key, each in value.items())
    )


def _ranks(value: Any) -> bool:
    """Return whether a value is a rank (lora), or a list of flags for the kept ranks (adalora)."""
    return _count(value) or (isinstance(value, list) and bool(value) and all(map(_flag, value)))


def _layers(value: Any) -> bool:
    return _index(value) or (isinstance(value, list) and all(map(_index, value)))


_COUNT, _A_SHARE, _NUMBER = (
    (_count, "a whole number above 0"),
    (_share, "a number from 0 to below 1"),
    (_number, "a number"),
)
_A_FLAG, _A_NAME = (_flag, "true or false"), (_name, f"a text of at most {_LONGEST_NAME} characters")
_INDEX, _STEPS = (_index, "a whole number of at least 0"), (_steps, "a number of steps of at least 0")
_MODULES = (_modules, "a list of module names or a regular expression without repeated groups")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "peft_type": _A_NAME,
    "task_type": _A_NAME,
    "peft_version": _A_NAME,
    "base_model_name_or_path": _A_NAME,
    "inference_mode": _A_FLAG,
    "r": _COUNT,
    "lora_alpha": _NUMBER,
    "lora_dropout": _A_SHARE,
    "target_modules": _MODULES,
    "exclude_modules": _MODULES,
    "feedforward_modules": _MODULES,
    # peft sets it for the experts of a Mixtral, whose weights are parameters of one module
    "target_parameters": (_names, "a list of parameter names"),
    "fan_in_fan_out": _A_FLAG,
    "init_lora_weights": (
        lambda value: value in (True, False, "gaussian", "orthogonal"),
        "an initialization that keeps the base weights unchanged (true, false, gaussian or orthogonal)",
    ),
    "use_rslora": _A_FLAG,
    "use_dora": _A_FLAG,
    "bias": _A_NAME,
    "layers_to_transform": (_layers, "a layer or a list of layers, counted from 0"),
    "layers_pattern": _MODULES,
    "rank_pattern": (_by_module(_ranks), "an object of module names and ranks"),
    "alpha_pattern": (_by_module(_number), "an object of module names and numbers"),
    "target_r": _COUNT,
    "init_r": _COUNT,
    "tinit": _STEPS,
    "tfinal": _STEPS,
    "deltaT": _STEPS,
    "beta1": _A_SHARE,
    "beta2": _A_SHARE,
    "orth_reg_weight": _NUMBER,
    "total_step": _STEPS,
    "init_ia3_weights": _A_FLAG,
    "num_virtual_tokens": _COUNT,
    "token_dim": _COUNT,
    "num_transformer_submodules": _COUNT,
    "num_attention_heads": _COUNT,
    "num_layers": _COUNT,
    "encoder_hidden_size": _COUNT,
    "num_ranks": _COUNT,
    "num_tasks": _COUNT,
    "prompt_tuning_init_task": _INDEX,
    "modules_to_save": (_names, "a list of module names"),
    "trainable_token_indices": (
        lambda value: _layers(value) or _by_module(_layers)(value),
        "a list of token ids, or an object of module names and such lists",
    ),
}
# Settings for the start of the earlier training, which models/adapters/__init__.py removes before peft builds the adapter
# again, and settings that have an effect only with another one that is refused.
_IGNORED = (
    "revision",
    "auto_mapping",
    "megatron_core",
    "qalora_group_size",
    "init_weights",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "prompt_tuning_init_state_dict_path",
    "loftq_config",
    "runtime_config",
)
