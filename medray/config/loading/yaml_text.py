"""Reading and writing of YAML. Reading is bounded: any text soon gives values or an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

LARGEST_TREE = 100_000  # values, counting each use of an anchor; a recipe has 100
LONGEST_SEXAGESIMAL = 100  # characters; 1:30:00 is a number, and parsing takes quadratic time


class _Loader(yaml.SafeLoader):
    """A YAML loader in which a repeated key is an error, 1e-3 is a number (YAML 1.1 needs 1.0e-3) and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [found for found in resolvers if found[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that quotes the text "1e-3", which `_Loader` would read as a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _mapping_without_doubles(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if key_node.tag == "tag:yaml.org,2002:merge":  # <<: the mapping's own keys replace merged ones
            continue
        name = loader.construct_object(key_node, deep=True)
        if not isinstance(name, str):
            raise yaml.MarkedYAMLError(None, None, "a key is not text; put it in quotes", key_node.start_mark)
        if name in seen:
            raise yaml.MarkedYAMLError(None, None, f"the key {name[:80]!r} is repeated", key_node.start_mark)
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_doubles)


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if ":" in node.value and len(node.value) > LONGEST_SEXAGESIMAL:
        raise yaml.MarkedYAMLError(None, None, "a number with too many digits", node.start_mark)
    kind = node.tag.rpartition(":")[2]
    return yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"](loader, node)


for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _number)


def _check_size(root: yaml.Node) -> None:
    """Raise an error for too many values, before anchors are expanded: ten lines of anchors can make billions of values."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise yaml.MarkedYAMLError(
                    None, None, "a recursive anchor, which contains itself", node.start_mark
                )
            return sizes[id(node)]
        sizes[id(node)], found = 0, 1
        if isinstance(node, yaml.CollectionNode):
            for item in node.value:
                found += sum(map(size, item)) if isinstance(item, tuple) else size(item)
        if found > LARGEST_TREE:
            raise yaml.MarkedYAMLError(
                None, None, f"more than {LARGEST_TREE:,} values, because anchors repeat them", node.start_mark
            )
        sizes[id(node)] = found
        return found

    size(root)


# The most common messages of PyYAML, in plain words.
_PROBLEMS = {
    "found character '\\t' that cannot start any token": "a tab; indent YAML with spaces",
    "mapping values are not allowed here": "a second ': ' in one line, or keys with different indentation",
    "special characters are not allowed": "a character that is not allowed in text",
    "but found another document": "a second document; a config is a single one, without ---",
    "expected <block end>, but found '<block mapping start>'": "keys with different indentation",
}


class NotYamlError(Exception):
    """An error of YAML text. Its message is a sentence that begins with the line, if known."""


def parse(text: str) -> Any:
    """Return the values of `text`. Raises NotYamlError."""
    loader: Any = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root)
        return loader.construct_document(root)
    except Exception as error:  # with an unusual tag, PyYAML may raise any error: KeyError for `!!bool x`
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        if isinstance(error, RecursionError):
            problem = "it is nested too deeply"
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
        line = mark.line if mark else text.count("\n", 0, position) if isinstance(position, int) else None
        where = "" if line is None else f"line {line + 1}: "
        raise NotYamlError(
            where + _PROBLEMS.get(str(problem), str(problem or "it cannot be parsed"))
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def write(tree: Any) -> str:
    """Return YAML that `parse` reads back as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
