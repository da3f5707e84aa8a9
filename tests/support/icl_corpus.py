"""A small made-up corpus of documents with drugs and what they cause, and a config of `medray icl` for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DRUGS = ("aspirin", "heparin", "morphine", "lithium", "digoxin", "warfarin", "insulin", "codeine")
EFFECTS = ("bleeding", "bruises", "sleep", "tremor", "nausea", "anaemia", "hunger", "vomiting")
CONFIG = """run: {name: small, storage: runs}
data:
  train: train.jsonl
  test: test.jsonl
  extraction: {answer: entities, types: [Drug]}
icl: {search: bm25, k: 4, top_n: 3, shots: 2}
"""


def row(name: str, text: str, drug: str, effect: str) -> dict[str, Any]:
    entities = [{"id": "1", "type": "Drug", "text": [drug]}, {"id": "2", "type": "Effect", "text": [effect]}]
    relations = [{"id": "3", "type": "causes", "arg1_id": "1", "arg2_id": "2"}]
    passages = [{"type": "title", "text": [text]}]
    return {"document_id": name, "passages": passages, "entities": entities, "relations": relations}


def write_corpus(folder: Path) -> Path:
    """Write train.jsonl (8 documents), test.jsonl (3) and icl.yaml into `folder`; return the path of the last.

    The texts of train-0 and test-0 are equal; those of test-1 and test-2 are about the drug of train-1 and train-2.
    """
    train = [
        row(
            f"train-{at}",
            f"A patient of ward {at} took {drug} and suffered {effect} after some days",
            drug,
            effect,
        )
        for at, (drug, effect) in enumerate(zip(DRUGS, EFFECTS, strict=True))
    ]
    test = [
        row(
            "test-0",
            "A patient of ward 0 took aspirin and suffered bleeding after some days",
            "aspirin",
            "bleeding",
        ),
        row("test-1", "We gave heparin, which brought bruises", "heparin", "bruises"),
        row("test-2", "On morphine he fell into a deep sleep", "morphine", "sleep"),
    ]
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    path = folder / "icl.yaml"
    path.write_text(CONFIG)
    return path
