"""The manifest of a prediction folder: what its parts were made from, so that only equal work is continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medray.errors import InputError
from medray.evaluate.prediction.rows import Part
from medray.storage import StoragePath, json_files

MANIFEST, VERSION = "manifest.json", 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The facts that decide the predictions in a folder, and how the input is divided.

    facts: name → value, such as "input notes.jsonl" (hash of the content), "model" (hash of the weights), "task",
    "decoding.temperature". rejected: number of rows that cannot be predicted.
    """

    facts: Mapping[str, Any]
    parts: tuple[Part, ...]
    rejected: int

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def write(self, folder: StoragePath) -> None:
        tree = {
            "version": VERSION,
            "facts": dict(self.facts),
            "parts": [list(asdict(part).values()) for part in self.parts],
            "rejected": self.rejected,
        }
        json_files.write_sealed(folder / MANIFEST, tree, durable=True)

    @classmethod
    def read(cls, folder: StoragePath) -> Manifest | None:
        """Return the manifest of a folder; None if it has none. Raises InputError if it is damaged."""
        file, fix = folder / MANIFEST, "use another --to, or start from the beginning with --overwrite"
        try:
            tree = json_files.read_sealed(file, fix=fix)
        except FileNotFoundError:
            return None
        with json_files.checking(file, fix=fix):
            names = list(Part.__dataclass_fields__)
            parts = [
                Part(**{name: int(value) for name, value in zip(names, values, strict=True)})
                for values in tree["parts"]
            ]
            if tree["version"] != VERSION:
                raise ValueError("another version")
            return cls(facts=dict(tree["facts"]), parts=tuple(parts), rejected=int(tree["rejected"]))


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: StoragePath) -> None:
    """Raise InputError that names the first fact in which earlier work in the folder differs from what is asked now."""
    for name in [*now, *(name for name in before if name not in now)]:
        if name in before and name in now and before[name] == now[name]:
            continue
        said = f"{name} was {_shown(before, name)}, and is now {_shown(now, name)}"
        raise InputError(
            f"this folder holds predictions of a different command: {said}",
            file=folder,
            key="--to",
            fix="use another --to, repeat the first command to continue it, or start from the beginning with --overwrite",
        )


def _shown(facts: Mapping[str, Any], name: str) -> str:
    if name not in facts:
        return "not used"
    value = facts[name]
    text = f"{value[:12]}…" if isinstance(value, str) and len(value) > 40 else repr(value)
    return text if not isinstance(value, Sequence) or isinstance(value, str) else f"{len(value)} values"
