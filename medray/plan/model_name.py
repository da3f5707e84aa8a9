"""The name of an untuned model that a user typed: refused at once if nothing has it. Imports neither torch nor transformers.

Without this check a misspelt name is looked up on the hub, which takes most of a minute without a network.
"""

from __future__ import annotations

import difflib
import os
import re

from medray import storage
from medray.config.model import PACKAGED_MODELS, ModelConfig
from medray.errors import InputError
from medray.plan.model_config import described_offline

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SIMILAR = 0.8  # smallest share of equal characters of a misspelt name
_KNOWN = f"name a folder, a packaged model ({', '.join(PACKAGED_MODELS)}) or a hub id"


def check_exists(name: str, key: str) -> None:
    """Raise InputError if `name` is no packaged model, folder or model of the hub. key: what the message blames.

    A hub is asked once, and only for a name that the cache of this machine does not have.
    """
    if name in PACKAGED_MODELS or os.path.isdir(name) or storage.is_remote(name):
        return
    if "/" not in name and (near := difflib.get_close_matches(name, PACKAGED_MODELS, n=1, cutoff=_SIMILAR)):
        raise InputError(
            "there is no such folder or model", key=key, value=name, fix=f"did you mean {near[0]}?"
        )
    if name.startswith((".", "~")) or not _HUB_ID.fullmatch(name) or _in_local_folder(name):
        raise InputError("there is no such folder", key=key, value=name, fix=f"check the path, or {_KNOWN}")
    try:
        described_offline(ModelConfig(name=name), 0)
    except InputError as error:
        raise InputError(
            f"there is no such folder, and the hub does not give a model of this name: {error.what}",
            key=key,
            value=name,
            fix=f"check the name: {_KNOWN} that can be reached",
        ) from None


def _in_local_folder(name: str) -> bool:
    """Return whether the first part of a path is a folder here, so that the rest is a misspelt name in it."""
    first, slash, _ = name.partition("/")
    return bool(slash) and os.path.isdir(first)
