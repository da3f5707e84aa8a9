"""A YAML file and `key=value` overrides become a checked Config; whatever is wrong becomes one InputError."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from medray.config import Config
from medray.errors import InputError


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config of `path` with `a.b=c` overrides (later wins) and absolute paths.

    Relative paths resolve against the folder of the file, never the working directory.
    Raises InputError for a file that cannot be read, is not YAML, or does not fit the schema.
    """
    path = Path(path)
    tree = _read(path)
    given_by: dict[str, str] = {}
    for override in overrides:
        _apply(tree, override, given_by)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, path, given_by) from None
    return _absolute(config, path.resolve().parent)


def dump(config: Config) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, and 1e-3 is a number (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _mapping_without_doubles(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        name = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(name, str):
            raise yaml.MarkedYAMLError(None, None, f"the key {name!r} is not text", key_node.start_mark)
        if name in seen:
            raise yaml.MarkedYAMLError(None, None, f"the key {name!r} stands twice", key_node.start_mark)
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: _mapping_without_doubles(loader, node, True)
)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("there is no such config file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as UTF-8 text ({error.__class__.__name__})", file=path) from None
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise InputError(f"not valid YAML{line}: {problem}", file=path) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"a config is a mapping of sections, not a {type(tree).__name__}", file=path)
    return tree


def _apply(tree: dict[str, Any], override: str, given_by: dict[str, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise InputError(f"the override {override!r} is not of the form section.key=value")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        value = text
    *parents, last = name.split(".")
    for parent in parents:
        branch = tree.setdefault(parent, {})
        if branch is None:
            branch = tree[parent] = {}
        if not isinstance(branch, dict):
            raise InputError(f"{parent} is not a section", key=name, value=text)
        tree = branch
    tree[last] = value
    given_by[name] = override


def _explain(error: ValidationError, path: Path, given_by: Mapping[str, str]) -> InputError:
    """The first of pydantic's errors in our words, with the nearest key for an unknown one."""
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    names = [str(part) for part in first["loc"]]
    # A union's location ends with the branch that was tried: keep what the user wrote.
    key = ".".join(name for name in names if name.replace("_", "").isalnum() or name.isdigit())
    source: object = "command line" if key in given_by else path
    also = f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        return InputError(f"there is no such key{also}", file=source, key=key, mend=_nearest(names))
    message = str(first["msg"]).removeprefix("Value error, ")
    value = first.get("input")
    shown = value if isinstance(value, str | int | float | bool | type(None)) else type(value).__name__
    return InputError(f"{message[0].lower()}{message[1:]}{also}", file=source, key=key or None, value=shown)


# What peers call it. Spelling alone cannot lead from these to ours.
_ALIASES = {
    "learning_rate": "train.optimizer.lr",
    "num_workers": "cluster.workers",
    "num_train_epochs": "train.epochs",
    "output_dir": "run.storage",
    "r": "peft.rank",
    "lora_r": "peft.rank",
    "batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "grad_accumulation": "train.gradient_accumulation_steps",
    "model_name_or_path": "model.name",
    "num_beams": "eval.generation",
}


def _nearest(names: list[str]) -> str:
    """The key that was probably meant: alike in the same section, of the same name elsewhere, or alike elsewhere."""
    section, name = names[:-1], names[-1]
    here = sorted(_fields_at(section))
    everywhere = list(_all_keys(Config, ()))
    near_here = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    same_elsewhere = [dotted for dotted in everywhere if dotted.rsplit(".", 1)[-1] == name]
    leaves = {dotted.rsplit(".", 1)[-1]: dotted for dotted in reversed(everywhere)}
    near_elsewhere = [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, n=1, cutoff=0.6)]
    aliased = [_ALIASES[name]] if name in _ALIASES else []
    for guess in (same_elsewhere, aliased, [".".join([*section, near]) for near in near_here], near_elsewhere):
        if guess:
            return f"did you mean {guess[0]}?"
    return f"{'.'.join(section) or 'a config'} has {', '.join(here)}"


def _all_keys(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[str]:
    for name in model.model_fields:
        inner = _model_of(model, name)
        yield ".".join((*prefix, name))
        if inner:
            yield from _all_keys(inner, (*prefix, name))


def _fields_at(names: list[str]) -> set[str]:
    model: type[BaseModel] | None = Config
    for name in names:
        model = _model_of(model, name) if model else None
    return set(model.model_fields) if model else set()


def _model_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def looks_like_path(name: str) -> bool:
    """Whether a model name means a folder: it says so itself (./, ../, ~, /)."""
    return name.startswith((".", "/", "~"))


def _absolute(config: Config, folder: Path) -> Config:
    def resolve(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve())

    run = config.run.model_copy(update={"storage": resolve(config.run.storage)})
    root = resolve(config.data.root) if config.data.root else str(folder)
    data = config.data.model_copy(
        update={
            "root": root,
            "train": tuple(str(Path(root) / Path(file).expanduser()) for file in config.data.train),
            "validation": tuple(str(Path(root) / Path(file).expanduser()) for file in config.data.validation),
        }
    )
    name = config.model.name
    if name and (looks_like_path(name) or (folder / name / "config.json").exists()):
        name = resolve(name)
    return config.model_copy(
        update={"run": run, "data": data, "model": config.model.model_copy(update={"name": name})}
    )
