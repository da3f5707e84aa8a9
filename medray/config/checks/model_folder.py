"""Checks of an untrusted model folder before a library reads it. Imports neither torch nor transformers.

Nothing in such a folder may be executed, downloaded or unpickled. docs/models.md states the rules; this file checks
those that the libraries do not enforce.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.storage import COPY_AGAIN

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_BYTES = 64 << 20
# Settings whose value makes transformers fetch code or read other files.
_FETCHED = ("kernel_config", "fusion_config", "distributed_config", "transformers_weights")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_EXPERTS = ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
# Settings for which transformers creates an object or a list entry per unit.
_COUNTED = (
    (re.compile(r"layers?$|blocks?$"), 2_000),
    (re.compile(r"experts$"), 10_000),
    (re.compile(r"heads?$|_labels$"), 100_000),
)
_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_WHOLE = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "num_beams",
    "num_return_sequences",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "top_k",
)
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "length_penalty",
    "max_time",
    "guidance_scale",
)
_BUILT_IN: dict[str, str | None] = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's config.json. Raises InputError that names the file if it is missing, damaged or not safe."""
    return _read(folder / CONFIG, storage.JSON_BYTES)


def check_config(config: dict[str, Any], file: object) -> None:
    """Raise InputError for settings that would download a kernel, read weights from elsewhere, or exhaust the memory."""
    _check_numbers(config, file)
    for settings in _levels(config):
        _check_values(settings, _TOKENS, _is_token, _A_TOKEN, file)
        for key in _FETCHED:
            if settings.get(key) is not None:
                raise InputError(
                    "this setting makes transformers download other code or files, which medray does not allow",
                    file=file,
                    key=key,
                    fix=f"remove {key} from the file",
                )
        for key, value in settings.items():
            for name, most in _COUNTED:
                if type(value) is int and value > most and name.search(key):
                    raise InputError(
                        f"this value is more than {most:,}, the largest that medray accepts",
                        file=file,
                        key=key[:100],
                        fix=COPY_AGAIN,
                    )
        for key in _ATTENTION + _EXPERTS:
            _check_implementation(settings.get(key), key, file)


def check_folder(folder: Path) -> None:
    """Raise InputError if a local folder has files that a library must not read: too large, nested too deeply, or an
    adapter.
    """
    names = _names(folder)
    if CONFIG in names:
        check_config(read_config(folder), folder / CONFIG)
        if "adapter_config.json" in names:
            raise InputError(
                "the folder contains a model and an adapter, which transformers would load without being asked",
                file=folder / "adapter_config.json",
                fix="move the adapter to a separate folder and set model.adapter to it",
            )
    for name in (
        GENERATION,
        TOKENIZER_CONFIG,
        "special_tokens_map.json",
        "processor_config.json",
    ):
        if name in names:
            content = _read(
                folder / name, TOKENIZER_BYTES if name == TOKENIZER_CONFIG else storage.JSON_BYTES
            )
            if name == GENERATION:
                _check_generation(content, folder / name)


def check_tokenizer_file(folder: Path) -> None:
    """Raise InputError if the folder has a tokenizer.json that does not describe a tokenizer."""
    if TOKENIZER not in _names(folder):
        return
    content = _read(folder / TOKENIZER, TOKENIZER_BYTES)
    if not isinstance(content.get("model"), dict):
        raise InputError(
            "the file does not describe a tokenizer: its key `model` is missing or is not an object",
            file=folder / TOKENIZER,
            key="model",
            fix=COPY_AGAIN,
        )


def refuse_code(file: object, key: str, named: object) -> InputError:
    """Return the error for a folder that works only with its own Python code."""
    return InputError(
        f"this folder needs its own Python code ({str(named)[:100]}), which medray does not run",
        file=file,
        key=key,
        fix="use a model and a tokenizer that transformers supports without such code, saved without auto_map",
    )


def _check_generation(settings: dict[str, Any], file: Path) -> None:
    """Raise InputError for settings of generation_config.json on which transformers would fail in a worker."""
    _check_numbers(settings, file)
    _check_values(settings, _TOKENS, _is_token, _A_TOKEN, file)
    _check_values(settings, _TOKEN_LISTS, _is_tokens, "a list of token ids", file)
    _check_values(settings, _WHOLE, lambda value: type(value) is int, "a whole number", file)
    _check_values(settings, _NUMBERS, lambda value: type(value) in (int, float), "a number", file)


def _is_token(value: Any) -> bool:
    return (type(value) is int and -1 <= value < 1 << 31) or _is_tokens(value)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and -1 <= each < 1 << 31 for each in value)


_A_TOKEN = "a token id or a list of token ids"


def _check_values(
    settings: dict[str, Any], keys: Iterable[str], fits: Callable[[Any], bool], what: str, file: object
) -> None:
    for key in keys:
        value = settings.get(key)
        if value is not None and not fits(value):
            raise InputError(
                f"this value is not {what}", file=file, key=key, value=str(value)[:100], fix=COPY_AGAIN
            )


def _check_numbers(value: Any, file: object, key: str = "") -> None:
    """Raise InputError for NaN and Infinity, which are not JSON but which Python's parser accepts.

    Mamba 2 and related models are published with an Infinity in time_step_limit, which means no limit.
    """
    if isinstance(value, dict):
        for name, each in value.items():
            _check_numbers(each, file, name)
    elif isinstance(value, list):
        for each in value:
            _check_numbers(each, file, key)
    elif (
        isinstance(value, float)
        and not math.isfinite(value)
        and (math.isnan(value) or key != "time_step_limit")
    ):
        raise InputError(
            "this value is not a finite number", file=file, key=key[:100], value=str(value), fix=COPY_AGAIN
        )


def _check_implementation(value: Any, key: str, file: object) -> None:
    for each in value.values() if isinstance(value, dict) else (value,):
        if each is None or (key in _EXPERTS and isinstance(each, str) and "/" not in each):
            continue
        if not isinstance(each, str) or each not in _BUILT_IN:
            raise InputError(
                "transformers would download and run this kernel, which medray does not allow",
                file=file,
                key=key,
                value=str(each)[:100],
                fix=f"remove {key} from the file, or use sdpa or eager",
            )
        package = _BUILT_IN[each]
        if package is not None and importlib.util.find_spec(package) is None:
            raise InputError(
                f"this implementation needs the package {package}, which is not installed here",
                file=file,
                key=key,
                value=each,
                fix=f"remove {key} from the file, or use sdpa or eager",
            )


def _levels(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the config and the configs inside it, such as text_config."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _levels(value)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the folder cannot be read ({getattr(error, 'strerror', None) or error})",
            file=folder,
            fix="use a folder that exists and that you may read",
        ) from None


def _read(file: Path, limit_bytes: int) -> dict[str, Any]:
    try:
        return storage.read_json(file, limit_bytes=limit_bytes)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, fix=COPY_AGAIN) from None
