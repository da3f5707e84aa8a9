"""Dotted keys, such as train.optimizer.lr or data.train[0].path, for values in a tree and for fields in the schema.

A tree is a result of YAML: dicts, lists and values. The schema consists of nested pydantic models; in a list of models, keys
have no number, as in data.train[].path; nor have the values of a dict of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def is_branch(value: object) -> bool:
    """Return whether `value` has entries that `walk` can visit."""
    return isinstance(value, dict | list | tuple)


def walk(tree: Any, enter: Callable[[Any], bool] = is_branch, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of `tree` and of everything in it, each dict or list before its entries.

    enter: whether the entries of a dict or a list are visited. Not recursive: a tree may be deeper than Python's stack.
    """
    waiting = [(key, tree)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if is_branch(value) and enter(value):
            inside = (
                [(under(key, name), entry) for name, entry in value.items()]
                if isinstance(value, dict)
                else [(f"{key}[{number}]", entry) for number, entry in enumerate(value)]
            )
            waiting += reversed(inside)


def under(key: str, name: object) -> str:
    """Return the dotted key of the entry `name` in the dict at `key`; the outermost dict has the key ""."""
    return f"{key}.{name}" if key else str(name)


def values(
    tree: Mapping[str, Any], enter_list: Callable[[Any], bool] = lambda value: False
) -> dict[str, Any]:
    """Return the values in nested dicts by their dotted keys. Empty dicts are not included.

    enter_list: whether a list is a branch too. Such a list has the value "3 entries" under its own key.
    """
    found = {}
    for key, value in walk(tree, lambda value: isinstance(value, dict) or enter_list(value)):
        if not isinstance(value, dict):
            found[key] = f"{len(value)} entries" if isinstance(value, list) and enter_list(value) else value
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any], *, null_keeps: bool = False) -> dict[str, Any]:
    """Return `base` with the values of `over`. Lists are replaced, not merged.

    null_keeps: a null in `over` keeps a dict of `base`, for a section whose keys are all commented out.
    """
    result = dict(base)
    for name, value in over.items():
        known = result.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            result[name] = merged(known, value, null_keeps=null_keeps)
        elif not (null_keeps and isinstance(known, dict) and value is None):
            result[name] = value
    return result


def fields(model: type[BaseModel], key: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) of everything in the schema, sections before their fields."""
    for name, field in model.model_fields.items():
        yield under(key, name), field
        if inner := model_of(field):
            many = "[]" if get_origin(field.annotation) in (tuple, dict) else ""
            yield from fields(inner, f"{under(key, name)}{many}")


def section_at(model: type[BaseModel], names: Sequence[str]) -> type[BaseModel] | None:
    """Return the model of the section that `names` lead to, None where there is none."""
    found: type[BaseModel] | None = model
    for name in names:
        field = found.model_fields.get(name) if found else None
        found = model_of(field) if field else None
    return found


def model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a section, of an optional section, or of the entries of a list of sections."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
