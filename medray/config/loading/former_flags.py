"""Flags of the five reference systems and what became of each, read from former_flags.toml.

A flag that is written as a YAML key is refused, and `hint` says what to write. docs/migrating.md is written from the same
rows: python scripts/migrating.py.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A flag of a reference system, and what replaces it.

    names: without dashes; a setting without a flag has a description with blanks. medray: keys and commands; empty if
    `text` says why there is none.
    """

    names: tuple[str, ...]
    medray: tuple[str, ...]
    text: str

    @property
    def planned(self) -> bool:
        """Return whether none of its replacements exists yet."""
        return bool(self.medray) and all(map(is_planned, self.medray))


@dataclass(frozen=True)
class Table:
    title: str
    flags: tuple[Flag, ...]


def tables() -> tuple[Table, ...]:
    """Return the tables of the page, in its order."""
    return tuple(
        Table(
            table["title"],
            tuple(Flag(tuple(row["names"]), tuple(row["medray"]), row["text"]) for row in table["flags"]),
        )
        for table in _content()["tables"]
    )


def planned() -> frozenset[str]:
    """Return the keys, sections and commands that rows name and that do not exist yet."""
    return frozenset(_content()["planned"])


def is_planned(entry: str) -> bool:
    """Return whether a key or command, or the section or command that it belongs to, does not exist yet."""
    names = planned()
    return entry in names or any(entry.startswith((f"{name}.", f"{name} ")) for name in names)


def key_of(entry: str) -> str | None:
    """Return the dotted key of an entry; None for a command."""
    return None if entry.startswith("medray ") else entry.partition(":")[0]


def hint(name: str) -> str | None:
    """Return what replaces a flag in a YAML, or None for an unknown flag. name: lower case, underscores."""
    flag = next((flag for table in tables() for flag in table.flags if name in flag.names), None)
    if flag is None:
        return None
    there = [entry for entry in flag.medray if not is_planned(entry)]
    if not there:
        return f"not in medray yet: {' and '.join(flag.medray)}" if flag.medray else flag.text
    if any(key_of(entry) is None for entry in there):
        return f"no key: {' or '.join(there)}"
    of_icl = " in the file of medray icl" if all(entry.startswith("icl.") for entry in there) else ""
    return f"did you mean {', '.join(there[:-1])}{' or ' if there[1:] else ''}{there[-1]}{of_icl}?"


@cache
def _content() -> dict[str, Any]:
    return tomllib.loads(
        files("medray.config.loading").joinpath("former_flags.toml").read_text(encoding="utf-8")
    )
