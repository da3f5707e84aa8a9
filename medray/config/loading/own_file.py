"""Loading of the files that have sections of their own and are not configs of a run: `judge`, `icl`, `synth`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from medray.config.explain import COMMAND_LINE, explain
from medray.config.loading.credentials import refuse_credentials
from medray.config.loading.load import check_depth, is_url, read_tree, set_override
from medray.config.section import Section
from medray.errors import InputError

FileT = TypeVar("FileT", bound=Section)


def read_own(model: type[FileT], path: str | Path, overrides: Iterable[str] = ()) -> FileT:
    """Return the content of a file as `model`, with `a.b=c` overrides (later wins).

    Paths are as written: resolve them with `path_near_file`. Raises InputError for a file that cannot be read, is not YAML,
    contains credentials, or does not fit the model.
    """
    path = Path(path)
    tree = read_tree(path)
    overridden = [set_override(tree, override) for override in overrides]
    check_depth(tree, path)
    refuse_credentials(tree, path, tuple(overridden), COMMAND_LINE)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, path, overridden, model) from None


def path_near_file(text: str, file: str | Path, key: str) -> str:
    """Return a path in a config as an absolute path: relative paths are relative to the folder of the config file.

    A URL is returned as it is. key: for messages. Raises InputError.
    """
    if is_url(text):
        return text
    try:
        return str((Path(file).resolve().parent / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError):
        raise InputError(
            "is not a valid path",
            file=file,
            key=key,
            value=text,
            fix="use a path that is valid on this system",
        ) from None
