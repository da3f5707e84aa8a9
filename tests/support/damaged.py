"""Small files of every format, and what may happen to their bytes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Sequence

ROWS = [
    {"id": str(number), "SECRET": f'é "SECRET" {number},\n\tSECRET', "n": [number, None]}
    for number in range(4)
]
JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
PUBTATOR = b"""1|t|SECRET and b
1|a|SECRET SECRET
1\t0\t6\tSECRET\tChemical\tD1|D2\tSECRET|x
1\t13\t19\tSECRET\tDisease\tMESH:D3
1\tCID\tD1\tMESH:D3

2|t|SECRET
"""
XML = b"""<?xml version="1.0" encoding="utf-8"?><!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><document id="1" source="s"><id>1</id><Focus>SECRET</Focus><passage><infon key="type">t</infon>
<offset>0</offset><text>SECRET &amp; b</text><annotation id="0"><infon key="MESH">D1</infon><location offset="0"
length="6"/><text>SECRET</text></annotation></passage><relation id="1"><node refid="0"/><node refid="0"/></relation>
<QAPair pid="1"><Question qid="1-1" qtype="x">SECRET?</Question><Answer>SECRET</Answer></QAPair></document></collection>
"""
BIOC = json.dumps(
    {
        "documents": [
            {
                "id": "1",
                "passages": [
                    {
                        "infons": {"type": "t"},
                        "offset": 0,
                        "text": "SECRET b",
                        "annotations": [
                            {
                                "id": "0",
                                "infons": {"type": "X", "identifier": "D1"},
                                "text": "SECRET",
                                "locations": [{"offset": 0, "length": 6}],
                            }
                        ],
                    }
                ],
                "relations": [{"infons": {"type": "r"}, "nodes": [{"refid": "0"}, {"refid": "0"}]}],
            }
        ]
    }
).encode()
FILES: dict[str, tuple[str, str, bytes]] = {
    "jsonl": ("jsonl", "", JSONL),
    "array": ("json", "", b"[" + JSONL.replace(b"\n", b",\n") + b"]"),
    "objects": ("json", "", JSONL),
    "by id": ("json", "", json.dumps({row["id"]: row for row in ROWS}, indent=1).encode()),
    "csv": ("csv", "", b'id,"SE""CRET"\n1,"SECRET\n""SECRET"""\n2,SECRET\n3,"SECRET,"\n'),
    "tsv": ("tsv", "", b"id\ttext\n1\tSECRET\n2\tSECRET\n"),
    "pubtator": ("pubtator", "", PUBTATOR),
    "conll": ("conll", "", b"-DOCSTART-\tO\n\nSECRET\tB-D\nSECRET\tI-D\n\nSECRET x B-D\n. x O\n"),
    "medquad": ("medquad_xml", "", XML),
    "bioc xml": ("bioc", "", XML),
    "bioc json": ("bioc", "", BIOC),
    "gz": ("jsonl", ".gz", gzip.compress(JSONL)),
    "bz2": ("jsonl", ".bz2", bz2.compress(JSONL)),
    "xz": ("jsonl", ".xz", lzma.compress(JSONL)),
}
MARKS = [
    b"\0",
    b"\xff",
    b'"',
    b"\n",
    b"\r",
    b"[",
    b"{",
    b"}",
    b"\t",
    b",",
    b"\xef\xbb\xbf",
    b"&",
    b"<",
    b"|",
    b"9" * 9,
]


def changed(data: bytes, rng: random.Random, marks: Sequence[bytes] = MARKS) -> bytes:
    """Return `data` after one to eight deletions, insertions and exchanges."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(found) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[place:place] = rng.choice(marks)
        elif kind == 2:
            del found[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            found[place : place + 1] = rng.choice(marks)
        else:
            del found[place:]
    return bytes(found)
