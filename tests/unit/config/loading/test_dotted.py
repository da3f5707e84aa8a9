from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from medray.config.loading.dotted import fields, merged, section_at, values, walk


class Inner(BaseModel):
    a: int = 1


class Outer(BaseModel):
    one: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    plain: tuple[int, ...] = ()


def test_a_walk_visits_a_branch_before_its_entries() -> None:
    tree = {"a": {"b": [1, {"c": 2}]}, 3: "x"}
    assert list(walk(tree)) == [
        ("", tree), ("a", tree["a"]), ("a.b", [1, {"c": 2}]), ("a.b[0]", 1), ("a.b[1]", {"c": 2}), ("a.b[1].c", 2), ("3", "x"),
    ]  # fmt: skip
    assert [key for key, _ in walk(tree, lambda value: isinstance(value, dict))] == ["", "a", "a.b", "3"]


def test_a_walk_goes_deeper_than_the_stack() -> None:
    tree: Any = "text"
    for _ in range(2 * sys.getrecursionlimit()):
        tree = [tree]
    assert list(walk(tree))[-1][1] == "text"


def test_values() -> None:
    tree = {"a": {"b": 1, "none": {}}, "c": [1, 2], "d": [{"e": 3}, "f"]}
    assert values(tree) == {"a.b": 1, "c": [1, 2], "d": [{"e": 3}, "f"]}
    assert values(tree, lambda entries: any(isinstance(entry, dict) for entry in entries)) == {
        "a.b": 1, "c": [1, 2], "d": "2 entries", "d[0].e": 3, "d[1]": "f",
    }  # fmt: skip


def test_merged_takes_lists_and_values_whole() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merged(base, {"a": {"c": [3]}, "e": {}}) == {"a": {"b": 1, "c": [3]}, "d": 4, "e": {}}
    assert merged(base, {"a": None}) == {"a": None, "d": 4}
    assert merged(base, {"a": None, "d": None}, null_keeps=True) == {"a": base["a"], "d": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_fields_of_a_schema() -> None:
    assert [key for key, _ in fields(Outer)] == [
        "one",
        "one.a",
        "maybe",
        "maybe.a",
        "many",
        "many[].a",
        "plain",
    ]
    assert section_at(Outer, []) is Outer
    assert section_at(Outer, ["many"]) is section_at(Outer, ["maybe"]) is Inner
    assert (
        section_at(Outer, ["plain"])
        is section_at(Outer, ["one", "a"])
        is section_at(Outer, ["x", "y"])
        is None
    )
