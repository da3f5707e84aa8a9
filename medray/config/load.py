"""A YAML file and `key=value` overrides become a checked Config; whatever is wrong becomes one InputError."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medray.config import Config
from medray.config.data import SourceConfig
from medray.config.explain import COMMAND_LINE, explain
from medray.config.model import PACKAGED_MODELS
from medray.errors import InputError

LARGEST_FILE = 256 * 1024  # bytes; a recipe has 2,000, and what is larger is a corpus given by mistake


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config of `path` with `a.b=c` overrides (later wins) and absolute paths.

    Relative paths resolve against the folder of the file, never the working directory.
    Raises InputError for a file that cannot be read, is not YAML, or does not fit the schema.
    """
    path = Path(path)
    tree = _read(path)
    overridden = [_override(tree, override) for override in overrides]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, path, overridden) from None
    return _absolute(config, path)


def dump(config: Config) -> str:
    """The resolved config as YAML, from which `load` makes the same config again."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, 1e-3 is a number (YAML 1.1 wants 1.0e-3) and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [found for found in resolvers if found[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes the text "1e-3", which `_Loader` would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _mapping_without_doubles(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if key_node.tag == "tag:yaml.org,2002:merge":  # <<: what it brings, the mapping's own keys replace
            continue
        name = loader.construct_object(key_node, deep=True)
        if not isinstance(name, str):
            raise yaml.MarkedYAMLError(None, None, "a key is not text; put it in quotes", key_node.start_mark)
        if name in seen:
            raise yaml.MarkedYAMLError(None, None, f"the key {name[:80]!r} stands twice", key_node.start_mark)
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_doubles)

# The commonest of PyYAML's sentences, in plain words.
_PROBLEMS = {
    "found character '\\t' that cannot start any token": "a tab; YAML is indented by spaces",
    "mapping values are not allowed here": "a second ': ' in one line, or keys that are not indented alike",
    "special characters are not allowed": "a character that does not belong in text",
    "but found another document": "a second document; a config is one, without --- in between",
    "expected <block end>, but found '<block mapping start>'": "keys that are not indented alike",
}


class _NotYamlError(Exception):
    """The sentence that says why, beginning with the line where it is known."""


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # an odd tag makes PyYAML raise anything: KeyError for `!!bool x`
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        if isinstance(error, RecursionError):
            problem = "it is nested too deeply"
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
        line = mark.line if mark else text.count("\n", 0, position) if isinstance(position, int) else None
        where = "" if line is None else f"line {line + 1}: "
        raise _NotYamlError(
            where + _PROBLEMS.get(str(problem), str(problem or "it cannot be parsed"))
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise InputError("there is no such config file", file=path, mend=_near_file(path)) from None
    except IsADirectoryError:
        raise InputError(
            "is a folder, not a config file", file=path, mend="name the YAML file in it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', error)})", file=path) from None
    if len(data) > LARGEST_FILE:
        raise InputError(
            f"has more than {LARGEST_FILE:,} bytes, so it is no config",
            file=path,
            mend="name the YAML file that describes the run; data files stand in it as data.train",
        )
    try:
        tree = _parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", file=path) from None
    except _NotYamlError as error:
        raise InputError(f"not valid YAML: {error}", file=path) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "one value"
        raise InputError(
            f"a config is sections with keys, this is {kind}",
            file=path,
            mend="begin with a section, as in configs/quickstart.yaml",
        )
    return tree


def _near_file(path: Path) -> str | None:
    try:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:
        return f"there is no folder {path.parent} either"
    return f"did you mean {path.parent / near[0]}?" if near else None


def _override(tree: dict[str, Any], override: str) -> str:
    """Sets what `section.key=value` says in `tree` and returns the dotted key. A value that is no YAML is text."""
    name, equals, text = override.partition("=")
    *parents, last = name.split(".")
    if not equals or not last or not all(parents):
        raise InputError(
            f"{override[:80]!r} is not of the form section.key=value",
            file=COMMAND_LINE,
            mend="as in train.max_steps=100",
        )
    try:
        value = _parse(text)
    except _NotYamlError:
        value = text
    for parent in parents:
        branch = tree.get(parent)
        if branch is not None and not isinstance(branch, dict):
            raise InputError(
                f"{parent} has a value, so it has no keys", file=COMMAND_LINE, key=name, value=text[:80]
            )
        tree[parent] = dict(branch or {})  # a copy: an anchor of YAML may have put it elsewhere too
        tree = tree[parent]
    tree[last] = value
    return name


def looks_like_path(name: str) -> bool:
    """Whether a model name means a folder: it says so itself (./, ../, ~, /)."""
    return name.startswith((".", "/", "~"))


def is_url(path: str) -> bool:
    """Whether a path names where it lies by a protocol: s3://, https://, …"""
    return "://" in path


def _absolute(config: Config, path: Path) -> Config:
    folder = path.resolve().parent

    def user(text: str, key: str) -> Path:
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise InputError(str(error).lower().rstrip("."), file=path, key=key, value=text) from None

    def resolve(text: str, key: str) -> str:
        try:
            return str((folder / user(text, key)).resolve())
        except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
            raise InputError("is no usable path", file=path, key=key, value=text) from None

    data = config.data
    root = data.root or str(folder)
    root = root if is_url(root) else resolve(root, "data.root")

    def under_root(text: str, key: str) -> str:  # links stay: what they lead to may have no ending
        if is_url(text):
            return text
        return f"{root.rstrip('/')}/{text}" if is_url(root) else str(Path(root) / user(text, key))

    def placed(split: str) -> tuple[SourceConfig, ...]:
        return tuple(
            entry
            if entry.format == "huggingface" and not os.path.exists(under_root(entry.path, f"data.{split}"))
            else entry.model_copy(update={"path": under_root(entry.path, f"data.{split}")})
            for entry in getattr(data, split)
        )

    files = {
        "root": root,
        "train": placed("train"),
        "validation": placed("validation"),
        "decontaminate": tuple(under_root(file, "data.decontaminate") for file in data.decontaminate),
        "template": resolve(data.template, "data.template")
        if data.template.endswith((".jinja", ".j2"))
        else data.template,
    }
    name = config.model.name
    if name and (looks_like_path(name) or (name not in PACKAGED_MODELS and os.path.isdir(folder / name))):
        name = resolve(name, "model.name")
    storage = resolve(config.run.storage, "run.storage")
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"storage": storage}),
            "data": data.model_copy(update=files),
            "model": config.model.model_copy(update={"name": name}),
        }
    )
