"""The simulated clinic: consultations written by a seeded generator, for the quickstart, load tests and tests.

A row is generated in three steps. A *case* is the truth: a patient, treatments, symptoms present and absent,
histories. The *note* is the case in one house style, always the same for the same case; a model learns to write it.
The *dialogue* is the case in everyday words, shuffled and phrased differently each time. The rejected note describes
the same case with one fact changed, so that only a clinical error distinguishes it from the chosen note.

Row i depends on (seed, size, split, i) alone, so any row can be generated without the rows before it. A treatment (a
condition, a drug, its dose) always belongs to the same split, whatever the seed: validation asks for combinations that
are not in training, made of words that are.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

from medray.clinic.case import SHAPES, draw_case, spoil
from medray.clinic.dialogue import dialogue
from medray.clinic.note import key_facts, write_note

# Part of the token fingerprint: raise it with every change of the generated rows. A test compares the rows with it.
REVISION = 1

SIZES: tuple[str, ...] = ("small", "medium", "full")
SPLITS: tuple[str, ...] = ("train", "validation")


def row(seed: int, index: int, *, split: str = "train", size: str = "small") -> dict[str, Any]:
    """Generate consultation `index` as a JSON-serialisable row, the same on every machine and in every process.

    Keys: id, group, lang, dialogue, note, rationale (text); entities: [{start, end, text, type, assertion}], positions
    in characters of the note; relations: [{type, head, tail}], indices into entities; chosen, rejected (notes); error:
    {kind, entity}, the error in `rejected`. Raises ValueError for an unknown split or size or an index below 0.
    """
    if split not in SPLITS or size not in SIZES or index < 0:
        raise ValueError(
            f"no row {index} of split {split!r}, size {size!r}: the index must be at least 0, the split one of {SPLITS}, "
            f"the size one of {SIZES}"
        )
    key = f"{size}-{split}-{seed}"
    digest = hashlib.blake2b(f"{key}-{index}".encode(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest))
    case = draw_case(rng, split, size)
    wrong, error = spoil(rng, case, split)
    sectioned = size == "full"
    note = write_note(case, sectioned)
    return {
        "id": f"clinic-{key}-{index:06d}",
        "group": f"clinic-{key}-patient-{index:06d}",
        "lang": "en",
        "dialogue": dialogue(rng, case, split, SHAPES[size]),
        "note": note.text,
        "rationale": "; ".join(f"{name}: {value}" for name, value in key_facts(case)),
        "entities": note.entities,
        "relations": note.relations,
        "chosen": note.text,
        "rejected": write_note(wrong, sectioned).text,
        "error": error,
    }


def rows(
    seed: int, count: int, *, split: str = "train", size: str = "small", start: int = 0
) -> Iterator[dict[str, Any]]:
    """Generate `count` consultations, from index `start` on."""
    for index in range(start, start + count):
        yield row(seed, index, split=split, size=size)
