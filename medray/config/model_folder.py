"""What a model folder from anywhere is asked before a library reads it. Imports neither torch nor transformers.

Nothing in such a folder is run, fetched or unpickled: docs/models.md states the rules, and the checks here enforce
those that a library does not.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError

CONFIG = "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_BYTES = 64 << 20
SAVED_AGAIN = "copy or download it again"
# Settings whose value transformers takes for code to fetch, or for other files to read.
_FETCHED = ("kernel_config", "fusion_config", "distributed_config", "transformers_weights")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_EXPERTS = ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
# Transformers makes an object or a list entry of each.
_COUNTED, _MOST = re.compile(r"layers?$|^n_layers?$|experts$|blocks?$|heads?$|_labels$"), 100_000
_BUILT_IN: dict[str, str | None] = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of the folder's config.json. Raises InputError that names the file."""
    return _read(folder / CONFIG, storage.JSON_BYTES)


def check_config(config: dict[str, Any], file: object) -> None:
    """Raise InputError for settings that would fetch a kernel, read weights elsewhere, or fill the memory."""
    for settings in _levels(config):
        for key in _FETCHED:
            if settings.get(key) is not None:
                raise InputError(
                    "asks transformers for other code or other files, which medray does not fetch",
                    file=file,
                    key=key,
                    mend=f"remove {key} from the file",
                )
        for key, value in settings.items():
            if type(value) is int and value > _MOST and _COUNTED.search(key):
                raise InputError(
                    f"is more than {_MOST:,}, which no model has", file=file, key=key[:100], mend=SAVED_AGAIN
                )
        for key in _ATTENTION + _EXPERTS:
            _check_implementation(settings.get(key), key, file)


def check_folder(folder: Path) -> None:
    """Raise InputError for files of a local folder that a library must not read: too large, too deep, an adapter."""
    names = _names(folder)
    if CONFIG in names:
        check_config(read_config(folder), folder / CONFIG)
        if "adapter_config.json" in names:
            raise InputError(
                "the folder holds a model and an adapter, which transformers would load with it unasked",
                file=folder / "adapter_config.json",
                mend="move the adapter to a folder of its own and name that as model.adapter",
            )
    for name in (
        "generation_config.json",
        TOKENIZER_CONFIG,
        "special_tokens_map.json",
        "processor_config.json",
    ):
        if name in names:
            _read(folder / name, TOKENIZER_BYTES if name == TOKENIZER_CONFIG else storage.JSON_BYTES)


def check_tokenizer_file(folder: Path) -> None:
    """Raise InputError where tokenizer.json is there and is not the file of a tokenizer."""
    if TOKENIZER not in _names(folder):
        return
    content = _read(folder / TOKENIZER, TOKENIZER_BYTES)
    if not isinstance(content.get("model"), dict):
        raise InputError(
            "is not the file of a tokenizer: it has no model",
            file=folder / TOKENIZER,
            key="model",
            mend=SAVED_AGAIN,
        )


def refuse_code(file: object, key: str, named: object) -> InputError:
    """The error for a folder that works only with Python code of its own."""
    return InputError(
        f"asks for code of its own ({str(named)[:100]}), and its code is not run",
        file=file,
        key=key,
        mend="use a model and a tokenizer that transformers has classes for, saved without auto_map",
    )


def _check_implementation(value: Any, key: str, file: object) -> None:
    for each in value.values() if isinstance(value, dict) else (value,):
        if each is None or (key in _EXPERTS and isinstance(each, str) and "/" not in each):
            continue
        if not isinstance(each, str) or each not in _BUILT_IN:
            raise InputError(
                "names a kernel that transformers would fetch and run, and its code is not run",
                file=file,
                key=key,
                value=str(each)[:100],
                mend=f"remove {key} from the file, or use sdpa or eager",
            )
        package = _BUILT_IN[each]
        if package is not None and importlib.util.find_spec(package) is None:
            raise InputError(
                f"needs the package {package}, which is not installed here",
                file=file,
                key=key,
                value=each,
                mend=f"remove {key} from the file, or use sdpa or eager",
            )


def _levels(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config and the configs inside it, such as text_config."""
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
            mend="a folder that exists and that you may read",
        ) from None


def _read(file: Path, limit_bytes: int) -> dict[str, Any]:
    try:
        return storage.read_json(file, limit_bytes=limit_bytes)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, mend=SAVED_AGAIN) from None
