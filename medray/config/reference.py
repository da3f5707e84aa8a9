"""The meaning of each key of a config, for `medray config`, docs/reference.md and the JSON schema for editors.

Everything is read from the pydantic models of the sections, so that no second list of keys exists.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

import medray
from medray.config import Config
from medray.config.annotate import AnnotateConfig
from medray.config.explain import nearest
from medray.config.icl import IclFile
from medray.config.judge import JudgeConfig
from medray.config.loading.dotted import fields, model_of, section_at
from medray.config.section import Section
from medray.config.synth import SynthConfig
from medray.errors import InputError

PACKAGE = Path(medray.__file__).parent
_STRING = re.compile(r'"""(?s:.*?)"""|"[^"\n]*"')
ENTRY = "[]"  # after a key that takes a list of sections: one entry of the list

# The schemas of config files: that of a run, and those of verbs with a file of their own.
FILES: dict[str, type[Section]] = {
    "run": Config,
    "icl": IclFile,
    "judge": JudgeConfig,
    "synth": SynthConfig,
    "annotate": AnnotateConfig,
}

_SIMPLE = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    NoneType: "null",
    Any: "any value",
}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFacts:
    """The facts about one key.

    key: dotted name, with `[]` for the entries of a list of sections. section: whether it contains other keys.
    default: as JSON; empty if a value is required. resumable: a run may resume after this key has changed. file: name of
    the config file in FILES.
    """

    key: str
    type: str
    default: str
    meaning: str
    resumable: bool
    section: bool
    declared_in: str
    file: str


def all_keys(file: str = "run") -> Iterator[KeyFacts]:
    """Yield the facts of every key of a config file, each section before the keys in it. file: a name in FILES."""
    schema = FILES[file]
    for key, field in fields(schema):
        section = model_of(field)
        plain = section is not None and get_origin(field.annotation) is not tuple
        *above, _ = key.replace(ENTRY, "").split(".")
        owner = section_at(schema, above)
        yield KeyFacts(
            key=key,
            type="section" if plain else _type(field),
            default="" if plain else _default(field),
            meaning=_meaning(field, section),
            resumable=_resumable(field),
            section=section is not None,
            declared_in=Path(inspect.getfile(owner or schema)).relative_to(PACKAGE.parent).as_posix(),
            file=file,
        )


def facts_of(key: str) -> KeyFacts:
    """Return the facts of the key that a user names, with or without the position of a list entry.

    A key that several files have is that of a run.
    Raises InputError for a key that does not exist, with the nearest one as the fix.
    """
    plain = re.sub(r"\[\d*\]", "", key)
    for file in FILES:
        for facts in all_keys(file):
            if facts.key.replace(ENTRY, "") == plain:
                return facts
    raise InputError("there is no such key", key=key[:160], fix=nearest(plain.split(".")))


def keys_in(section: KeyFacts) -> list[KeyFacts]:
    """Return the facts of the keys directly in a section, or in the entries of a list of sections."""
    start = re.compile(rf"{re.escape(section.key)}({re.escape(ENTRY)})?\.[^.]+")
    return [facts for facts in all_keys(section.file) if start.fullmatch(facts.key)]


def files_that_read(facts: KeyFacts) -> list[str]:
    """Return the source files that use the value of a key, as paths from the folder above the package.

    Found by text. The first of these that any file has decides: an expression that ends in the names of the section and of
    the key; an attribute of the key's name in a file that names the section; such an attribute in any file; the dotted key
    as a string. The file that declares the key counts only where there is no other.
    """
    *_, parent, name = ["config", *facts.key.replace(ENTRY, "").split(".")]
    attribute = re.compile(rf"\.{name}\b(?!\()")
    using = {path: text for path, text in _sources(strings=False).items() if attribute.search(text)}
    others = [path for path in using if path != facts.declared_in]
    for pattern in (rf"\b{parent}\.{name}\b(?!\()", rf"\b{parent}\b"):
        if found := [path for path in others if re.search(pattern, using[path])]:
            return found
    named = [path for path, text in _sources(strings=True).items() if f'"{facts.key}"' in text]
    return others or list(using) or named


@cache
def _sources(*, strings: bool) -> dict[str, str]:
    """Return the text of each source file of the package by its path, with or without its strings."""
    if not strings:
        return {path: _STRING.sub('""', text) for path, text in _sources(strings=True).items()}
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def schema(file: str = "run") -> dict[str, Any]:
    """Return the JSON schema of a config file, for editors. file: a name in FILES."""
    tree: dict[str, Any] = FILES[file].model_json_schema(schema_generator=_ForEditors)
    if file != "run":
        return {"$schema": GenerateJsonSchema.schema_dialect, **tree}
    size = tree["$defs"]["TrainConfig"]["properties"]["global_batch_size"]  # null removes the value of a file
    size["type"] = [size["type"], "null"]
    return {"$schema": GenerateJsonSchema.schema_dialect, **tree}


class _ForEditors(GenerateJsonSchema):
    """A schema generator that omits titles, which repeat the names, and allows an empty section, as `read` does."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> Any:
        found = super().model_schema(schema)
        found.pop("title", None)
        for field in found.get("properties", {}).values():
            if "$ref" in field:
                field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]
        return found


def _meaning(field: FieldInfo, section: type[BaseModel] | None) -> str:
    """Return the description of a field, the docstring of a section, or both for a list of sections."""
    of_section = " ".join(str(section.__doc__ or "").split()) if section else ""
    return f"{field.description or ''} {of_section}".strip()


def _resumable(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("resumable"))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    return json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)


def _type(field: FieldInfo) -> str:
    for one in field.metadata:  # a registered name is text with a list of what is allowed
        if isinstance(one, WithJsonSchema) and one.json_schema and "enum" in one.json_schema:
            return ", ".join(f"`{word}`" for word in one.json_schema["enum"])
    return _words(field.annotation, _limits(field.metadata))


def _words(annotation: Any, limits: str = "") -> str:
    """Return the type in words that fit YAML. limits: appended to the number type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0], _limits(inner[1:]) or limits)
    if origin in (Union, UnionType):
        return " or ".join(_words(each, "" if each is NoneType else limits) for each in inner)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return f"list of {_plural(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(each) for each in inner)}]"
    if origin is dict:
        return "keys with values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    word = _SIMPLE.get(annotation, str(annotation))
    return f"{word} {limits}".strip()


def _plural(annotation: Any) -> str:
    word = _words(annotation)
    return {"text": "texts", "section": "sections"}.get(word, word)


def _limits(metadata: Any) -> str:
    """Return the constraints of a field, or of an annotation with a Field, as `≥ 0 and < 1`."""
    found = [
        f"{sign} {getattr(one, name):,}"
        for outer in metadata
        for one in (outer.metadata if isinstance(outer, FieldInfo) else (outer,))
        for name, sign in _SIGNS.items()
        if getattr(one, name, None) is not None
    ]
    return " and ".join(found)
