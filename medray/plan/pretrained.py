"""The only caller of `from_pretrained` of transformers and peft.

A folder or hub repository is untrusted input. None of its Python code is run, and the user is never asked whether to run it;
no pickle is read; for a local folder, no library contacts a hub. docs/models.md states the rules. A test checks that no
other file calls `from_pretrained`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from medray.config.checks import model_folder as folders
from medray.errors import InputError, MedrayError


def from_pretrained(auto: Any, place: str | Path | None, **settings: Any) -> Any:
    """Return the result of `auto.from_pretrained` for a local folder or a hub id.

    auto: a class of transformers (for a config, tokenizer or model) or of peft. `place`: None for a model whose config
    and state_dict are in the settings. settings: passed on; `model` is the base model of a peft adapter.

    Raises InputError if the folder needs its own code, contains pickled weights, or cannot be loaded.
    """
    family = "peft" if auto.__module__.startswith("peft.") else "transformers"
    local = place is not None and os.path.isdir(place)
    if place is not None:
        _check(auto, str(place), local=local, family=family)
    if local and family == "transformers":
        settings["local_files_only"] = True
    if family == "transformers":
        settings["trust_remote_code"] = False
        if _is_model(auto) and "gguf_file" not in settings:
            settings["use_safetensors"] = True
    elif "model" in settings:
        return _tried(auto, place, settings.pop("model"), str(place), **settings)
    made = _tried(auto, place, None if place is None else str(place), **settings)
    if _kind(auto) == "tokenizer":
        for name in (
            "local_files_only",
            "trust_remote_code",
            "is_local",
        ):  # otherwise they would be saved with the tokenizer
            made.init_kwargs.pop(name, None)
    return made


def _tried(auto: Any, place: str | Path | None, *values: Any, **settings: Any) -> Any:
    try:
        return auto.from_pretrained(*values, **settings)
    except (MedrayError, MemoryError):
        raise
    except Exception as error:
        if _is_model(auto) and not _tells_of_input(error):
            raise
        raise _refusal(auto, place, error) from None


def _tells_of_input(error: Exception) -> bool:
    """Return whether the files caused a failed load of weights, and not, for example, a full GPU."""
    text = str(error)
    known = ("size mismatch", "ignore_mismatched_sizes", "conversion of the weights", "safetensors")
    return isinstance(error, OSError | ValueError | TypeError | KeyError | AttributeError) or any(
        words in text for words in known
    )


def _refusal(auto: Any, place: str | Path | None, error: Exception) -> InputError:
    if "trust_remote_code" in str(error):
        return folders.refuse_code(place, "auto_map", "a class that transformers does not have")
    reason = type(error).__name__
    if field := re.search(
        r"field '(\w{1,60})'", str(error)
    ):  # an error of transformers' own checks of a config
        reason = f"{reason}: {field[1]}"
    if isinstance(error, ImportError):
        reason = f"{reason}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    fix = {
        "tokenizer": "use a folder with the files that tokenizer.save_pretrained writes, or a hub id that can be reached",
        "config": "use a folder or hub id with a config.json that the installed transformers knows",
        "adapter": "use the folder that an export of an adapter wrote",
    }.get(
        _kind(auto),
        "use a folder that save_pretrained wrote, with *.safetensors, or a hub id that can be reached",
    )
    return InputError(
        f"cannot load the {_kind(auto)} ({reason})",
        key="model.name",
        value=str(place),
        fix=_hub_fix(str(error)) or fix,
    )


def _hub_fix(text: str) -> str | None:
    """Return what to do if a hub refused a download, or if it cannot be reached; None for other errors."""
    if "gated repo" in text:
        return "accept the licence on the model's page, and set HF_TOKEN in the environment to a token of your account"
    if "couldn't connect to" in text:
        return (
            "without a network, run `hf download` on a machine that has one, copy the folder, and set model.name to it; "
            "with one, check HF_HUB_OFFLINE and HF_ENDPOINT"
        )
    return None


def _kind(auto: Any) -> str:
    if auto.__module__.startswith("peft."):
        return "adapter"
    name = auto.__name__
    return "tokenizer" if "Tokenizer" in name else "config" if name.endswith("Config") else "model"


def _is_model(auto: Any) -> bool:
    return _kind(auto) == "model"


def _check(auto: Any, place: str, *, local: bool, family: str) -> None:
    if family == "peft":
        if not local:
            raise InputError(
                "an adapter must be in a local folder",
                value=place,
                key="model.adapter",
                fix="download it first",
            )
        return
    if not local:
        return
    folder = Path(place)
    folders.check_folder(folder)
    if (folder / folders.CONFIG).is_file():
        refuse_code_of_config(folders.read_config(folder), folder / folders.CONFIG)
    if _kind(auto) == "tokenizer":
        folders.check_tokenizer_file(folder)
        _refuse_code_of_tokenizer(folder)


def refuse_code_of_config(config: dict[str, Any], file: object) -> None:
    """Raise InputError if a config needs its own code and transformers has no class for its model_type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    named = config.get("auto_map")
    if named and config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise folders.refuse_code(file, "auto_map", _first(named))


def _refuse_code_of_tokenizer(folder: Path) -> None:
    file = folder / folders.TOKENIZER_CONFIG
    if not file.is_file():
        return
    from medray import storage

    settings = storage.read_json(file, limit_bytes=folders.TOKENIZER_BYTES)
    named = settings.get("auto_map")
    if isinstance(named, dict):
        named = named.get("AutoTokenizer")
    if named and not _known_tokenizer(settings.get("tokenizer_class")):
        raise folders.refuse_code(file, "auto_map", _first(named))


def _known_tokenizer(name: Any) -> bool:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    return isinstance(name, str) and any(
        tokenizer_class_from_name(each) is not None for each in (name, f"{name.removesuffix('Fast')}Fast")
    )


def _first(named: Any) -> Any:
    values = list(named.values()) if isinstance(named, dict) else named
    return next((each for each in values if each), named) if isinstance(values, list | tuple) else values
