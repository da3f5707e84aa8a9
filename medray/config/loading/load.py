"""Loading of a YAML file and `key=value` overrides into a checked Config. The first error becomes an InputError."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medray.config.data import TEMPLATE_FILES, SourceConfig
from medray.config.explain import COMMAND_LINE, explain
from medray.config.loading.credentials import refuse_credentials
from medray.config.loading.dotted import merged
from medray.config.loading.yaml_text import NotYamlError, parse, write
from medray.config.model import PACKAGED_MODELS
from medray.config.run import begin_of
from medray.config.schema import Config
from medray.config.site import check_sections
from medray.config.stages import stage_tree
from medray.config.tune import checked_space
from medray.errors import InputError

LARGEST_FILE = 256 * 1024  # bytes; a recipe has 2,000, and a larger file is a corpus given by mistake
# Keys with paths, which `read` makes absolute.
PATHS = {
    "data": ("root", "train", "validation", "split", "decontaminate", "template", "tokenizer"),
    "model": ("name", "adapter"),
}
DEEPEST = 64  # levels in a section; train.deepspeed may need five


def read(path: str | Path, overrides: Iterable[str] = (), *, site: Path | None = None) -> Config:
    """Return the config of `path` with `a.b=c` overrides (later wins) and absolute paths.

    Relative paths resolve against the folder of the file, never the working directory. site: a file whose values are used
    for keys that the config lacks.
    Raises InputError for a file that cannot be read, is not YAML, contains credentials, or does not fit the schema.
    """
    path = Path(path)
    tree = read_tree(path)
    if site is not None:
        tree = merged(_tree_of_site(site), tree, null_keeps=True)
    overridden = [set_override(tree, override) for override in overrides]
    check_depth(tree, path)
    refuse_credentials(tree, path, tuple(overridden), COMMAND_LINE)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, path, overridden) from None
    if config.tune is not None:
        config = checked_space(config, lambda each: absolute(each, path))
    return absolute(config, path) if not config.stages else _with_stages(config, tree, path, overridden)


def validated(tree: dict[str, Any]) -> Config:
    """Return the config of a tree whose paths are absolute. Raises InputError that names the key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, None, ()) from None


def load_site(file: Path) -> Config:
    """Return the config of a site file alone, with defaults for the rest. Raises InputError."""
    return Config.model_validate(_tree_of_site(file))


def _tree_of_site(file: Path) -> dict[str, Any]:
    """Read a site file and check it separately, so that errors name this file and not the config."""
    tree = read_tree(file)
    check_sections(tree, file)
    check_depth(tree, file)
    refuse_credentials(tree, file)
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, file, ()) from None
    return tree


def dump(config: Config) -> str:
    """Return the resolved config as YAML, which `read` loads as the same config."""
    return write(config.model_dump(mode="json"))


def overridden(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a validated copy of `config` with other values, by their dotted keys. See `Config.override`."""
    tree = config.model_dump(exclude_unset=True)
    for dotted, value in values.items():
        refuse_credentials({dotted: value}, None)
        _put(tree, dotted, value, None)
    check_depth(tree, None)
    return validated(tree)


def read_tree(path: Path) -> dict[str, Any]:
    """Return the sections of a YAML file as they are written. Raises InputError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise InputError("there is no such config file", file=path, fix=_near_file(path)) from None
    except IsADirectoryError:
        raise InputError(
            "is a folder, not a config file", file=path, fix="use the path of a YAML file in it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({getattr(error, 'strerror', error)})",
            file=path,
            fix="use a file that you may read",
        ) from None
    if len(data) > LARGEST_FILE:
        raise InputError(
            f"has more than {LARGEST_FILE:,} bytes, so it is not a config",
            file=path,
            fix="use the YAML file that describes the run, and set the data files in it as data.train",
        )
    try:
        tree = parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"is not UTF-8 text (byte {error.start})", file=path, fix="save it as UTF-8"
        ) from None
    except NotYamlError as error:
        raise InputError(
            f"not valid YAML: {error}",
            file=path,
            fix="correct it there; put text with ': ', '#', brackets or quotes in quotes",
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "one value"
        raise InputError(
            f"a config consists of sections with keys, but this is {kind}",
            file=path,
            fix="begin with a section, as in configs/quickstart.yaml",
        )
    return tree


def check_depth(tree: dict[str, Any], path: Path | None) -> None:
    """Raise InputError for a tree that is too deep: libraries fail at different depths and with different messages."""
    for section, value in tree.items():
        level = [value]
        for _ in range(DEEPEST):
            level = [
                inner
                for each in level
                for inner in (
                    each.values()
                    if isinstance(each, dict)
                    else each
                    if isinstance(each, list | tuple)
                    else ()
                )
            ]
        if level:
            raise InputError(
                f"is nested more than {DEEPEST} levels deep",
                file=path,
                key=section[:80],
                fix="use fewer levels; no key needs more than five",
            )


def _near_file(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:
        return f"check the path; there is no folder {path.parent} either"
    return f"did you mean {path.parent / near[0]}?" if near else f"use a YAML file in {path.parent}"


def set_override(tree: dict[str, Any], override: str) -> str:
    """Set the value of `section.key=value` in `tree` and return the dotted key. A value that is not YAML is text."""
    name, equals, text = override.partition("=")
    # Check for credentials before any message shows a part of it; also check the whole, which may be a URL without a key.
    for tree_of_it in ({name: text}, {"an override": override}):
        refuse_credentials(tree_of_it, COMMAND_LINE)
    *parents, last = name.split(".")
    if not equals or not last or not all(parents):
        raise InputError(
            f"{override[:80]!r} is not of the form section.key=value",
            file=COMMAND_LINE,
            fix="write it as in train.max_steps=100, and put a value with spaces in quotes",
        )
    if not text.strip():  # an empty shell variable, which YAML would read as null
        raise InputError(
            "is empty", file=COMMAND_LINE, key=name, fix=f"use {name}=null for its default, or give a value"
        )
    try:
        value = parse(text)
    except NotYamlError:
        value = text
    _put(tree, name, value, COMMAND_LINE)
    return name


def _with_stages(config: Config, tree: dict[str, Any], path: Path, overridden: Iterable[str]) -> Config:
    """Check the config of every stage, and make the paths in it absolute."""
    stages = []
    for number, stage in enumerate(config.stages, 1):
        whole = stage_tree(tree, stage.tree(), number, stage.name)
        try:
            made = absolute(Config.model_validate(whole), path)
        except ValidationError as error:
            found = explain(error, whole, path, overridden)
            if found.key and _has(stage.tree(), found.key):
                found.key = f"stages.{number}.{found.key}"
            raise InputError(
                found.what, file=found.file, key=found.key, value=found.value, fix=found.fix
            ) from None
        plain = made.model_dump(mode="json", exclude_unset=True)
        placed = {
            section: given | {name: plain[section][name] for name in PATHS.get(section, ()) if name in given}
            for section, given in stage.tree().items()
        }
        stages.append(stage.model_copy(update=placed))
    return absolute(config, path).model_copy(update={"stages": tuple(stages)})


def _has(tree: Mapping[str, Any], dotted: str) -> bool:
    """Return whether the first two parts of a dotted key are in a tree."""
    section, _, rest = dotted.partition(".")
    name = rest.partition(".")[0].partition("[")[0]
    return section in tree and (not name or name in tree[section])


def _put(tree: dict[str, Any], dotted: str, value: Any, file: object) -> None:
    """Set the value of a dotted key in `tree`. Raises InputError if a parent key already has a value.

    A number after `stages` is the number of a stage, from 1.
    """
    *parents, last = dotted.split(".")
    if parents[:1] == ["stages"]:
        tree, parents = _stage(tree, dotted, parents, file), parents[2:]
    for parent in parents:
        branch = tree.get(parent)
        if branch is not None and not isinstance(branch, dict):
            raise InputError(
                f"{parent} has a value, so it cannot have keys",
                file=file,
                key=dotted,
                value=str(value)[:80],
                fix="give either the value or the keys",
            )
        tree[parent] = dict(branch or {})  # a copy: a YAML anchor may use the same dict elsewhere
        tree = tree[parent]
    tree[last] = value


def _stage(tree: dict[str, Any], dotted: str, parents: list[str], file: object) -> dict[str, Any]:
    """Return the tree of the stage that a dotted key names, as a copy that replaces it in `tree`."""
    stages = tree.get("stages")
    count = len(stages) if isinstance(stages, list | tuple) else 0
    number = int(parents[1]) if len(parents) > 1 and parents[1].isdecimal() and len(parents[1]) < 4 else 0
    if not 1 <= number <= count:
        raise InputError(
            f"the config has {count} stages, and none of this number"
            if count
            else "the config has no stages",
            file=file,
            key=dotted,
            fix=f"use a number from 1 to {count}, as in stages.1.train.max_steps=10"
            if count
            else "remove the override",
        )
    made = [dict(stage) if isinstance(stage, dict) else stage for stage in stages or ()]
    if not isinstance(made[number - 1], dict):
        raise InputError(
            "the stage is not a section with keys",
            file=file,
            key=dotted,
            fix="write the stage as keys and values",
        )
    tree["stages"] = made
    chosen: dict[str, Any] = made[number - 1]
    return chosen


def looks_like_path(name: str) -> bool:
    """Return whether a model name is a folder by its beginning (./, ../, ~, /)."""
    return name.startswith((".", "/", "~"))


def is_url(path: str) -> bool:
    """Return whether a path has a protocol: s3://, https://, and so on."""
    return "://" in path


def absolute(config: Config, path: Path) -> Config:
    """Return a config with absolute paths. path: the file that it was read from. Raises InputError for an invalid path."""
    folder = path.resolve().parent

    def user(text: str, key: str) -> Path:
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise InputError(
                str(error).lower().rstrip("."), file=path, key=key, value=text, fix="use the full path"
            ) from None

    def resolve(text: str, key: str) -> str:
        try:
            return str((folder / user(text, key)).resolve())
        except (OSError, RuntimeError, ValueError):  # a loop of links, a null byte
            raise InputError(
                "is not a valid path",
                file=path,
                key=key,
                value=text,
                fix="use a path that is valid on this system",
            ) from None

    data = config.data
    root = data.root or str(folder)
    root = root if is_url(root) else resolve(root, "data.root")

    def under_root(text: str, key: str) -> str:  # links are not resolved: their targets may lack the ending
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
        "split": data.split
        if data.split.validation_ids is None
        else data.split.model_copy(
            update={"validation_ids": under_root(data.split.validation_ids, "data.split.validation_ids")}
        ),
        "decontaminate": tuple(under_root(file, "data.decontaminate") for file in data.decontaminate),
        "template": resolve(data.template, "data.template")
        if data.template.endswith(TEMPLATE_FILES)
        else data.template,
    }
    name = config.model.name
    if name and (looks_like_path(name) or (name not in PACKAGED_MODELS and os.path.isdir(folder / name))):
        name = resolve(name, "model.name")
    tokenizer = data.tokenizer
    if looks_like_path(tokenizer) or (
        tokenizer not in ("model", "train", *PACKAGED_MODELS) and os.path.isdir(folder / tokenizer)
    ):
        files["tokenizer"] = resolve(tokenizer, "data.tokenizer")
    adapter = config.model.adapter
    if adapter:
        adapter = resolve(adapter, "model.adapter")
    storage = config.run.storage
    storage = storage if is_url(storage) else resolve(storage, "run.storage")
    run = {"storage": storage}
    start = config.run.begin_from
    if start is not None and not is_url(start):
        place, step = begin_of(start)
        run["begin_from"] = resolve(place, "run.begin_from") + ("" if step is None else f"@{step}")
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=run),
            "data": data.model_copy(update=files),
            "model": config.model.model_copy(update={"name": name, "adapter": adapter}),
        }
    )
