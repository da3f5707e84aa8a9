"""Damaged files: whatever bytes change, a reader ends with rows, bad rows or an InputError, and says no text."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path

import pytest

from medray.data.readers import read
from medray.data.records import BadRowError
from medray.errors import InputError

CHANGES = 2000
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


def changed(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(found) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[place:place] = rng.choice(MARKS)
        elif kind == 2:
            del found[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            found[place : place + 1] = rng.choice(MARKS)
        else:
            del found[place:]
    return bytes(found)


@pytest.mark.timeout(120)  # instead of a reader that never ends
@pytest.mark.parametrize(("format", "ending", "data"), FILES.values(), ids=FILES.keys())
def test_no_change_of_bytes_breaks_a_reader(format: str, ending: str, data: bytes, tmp_path: Path) -> None:
    rng = random.Random(format + ending)
    file = tmp_path / f"rows{ending}"
    said: list[str] = []
    rows = 0
    for _ in range(CHANGES):
        file.write_bytes(changed(data, rng))
        try:
            for found in read(str(file), format):
                assert found.line >= 1
                if isinstance(found.row, BadRowError):
                    said.append(str(found.row))
                else:
                    assert isinstance(found.row, dict)
                    rows += 1
        except InputError as error:
            said.append(str(error))
    assert rows > 0
    assert said
    assert not any("SECRET" in message for message in said)
