"""The BioC reader gives the same rows from XML and from JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.data.readers import read
from medray.data.records import BadRowError
from medray.errors import InputError

XML = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><source>PubTator</source><date>20160101</date><key>k.key</key>
<document><id>227</id>
 <passage><infon key="type">title</infon><offset>0</offset><text>Naloxone &amp; clonidine.</text>
  <annotation id="0"><infon key="type">Chemical</infon><infon key="MESH">D009270</infon>
   <location offset="0" length="8"/><text>Naloxone</text></annotation></passage>
 <passage><infon key="type">abstract</infon><offset>22</offset><text>Ocular and auditory toxicity.</text>
  <annotation id="1"><infon key="type">Disease</infon><infon key="MESH">D006311</infon>
   <location offset="33" length="17"/><text>auditory toxicity</text></annotation>
  <annotation id="2"><infon key="type">Disease</infon><infon key="MESH">D014786</infon>
   <location offset="22" length="6"/><location offset="42" length="8"/><text>Ocular toxicity</text></annotation>
 </passage>
 <relation id="R0"><infon key="relation">CID</infon><infon key="Chemical">D009270</infon>
  <infon key="Disease">D006311</infon></relation>
 <relation id="R1"><infon key="type">causes</infon><node refid="0" role="a"/><node refid="2" role="b"/></relation>
</document>
<document><id>228</id><passage><offset>0</offset><text>Next.</text></passage></document>
</collection>
"""


def annotation(number: str, kind: str, concept: str, text: str, *places: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": number,
        "infons": {"type": kind, "identifier": concept},
        "text": text,
        "locations": [{"offset": offset, "length": length} for offset, length in places],
    }


DOCUMENT: dict[str, Any] = {
    "id": "227",
    "infons": {},
    "passages": [
        {
            "infons": {"type": "title"},
            "offset": 0,
            "text": "Naloxone & clonidine.",
            "annotations": [annotation("0", "Chemical", "D009270", "Naloxone", (0, 8))],
        },
        {
            "infons": {"type": "abstract"},
            "offset": 22,
            "text": "Ocular and auditory toxicity.",
            "sentences": [],
            "annotations": [
                annotation("1", "Disease", "D006311", "auditory toxicity", (33, 17)),
                annotation("2", "Disease", "D014786", "Ocular toxicity", (22, 6), (42, 8)),
            ],
        },
    ],
    "relations": [
        {
            "id": "R0",
            "infons": {"type": "CID", "role1": {"identifier": "D009270"}, "role2": {"identifier": "D006311"}},
            "nodes": [{"refid": "0", "role": "1,2"}],
        },
        {"id": "R1", "infons": {"type": "causes"}, "nodes": [{"refid": "0"}, {"refid": "2"}]},
    ],
}
NEXT: dict[str, Any] = {"id": "228", "passages": [{"offset": 0, "text": "Next."}]}

ROW = {
    "document_id": "227",
    "passages": [
        {"type": "title", "text": ["Naloxone & clonidine."], "offsets": [[0, 21]]},
        {"type": "abstract", "text": ["Ocular and auditory toxicity."], "offsets": [[22, 51]]},
    ],
    "entities": [
        {
            "id": name,
            "type": kind,
            "text": [text],
            "offsets": offsets,
            "normalized": [{"db_name": "", "db_id": concept}],
        }
        for name, kind, text, offsets, concept in (
            ("T1", "Chemical", "Naloxone", [[0, 8]], "D009270"),
            ("T2", "Disease", "Ocular toxicity", [[22, 28], [42, 50]], "D014786"),
            ("T3", "Disease", "auditory toxicity", [[33, 50]], "D006311"),
        )
    ],
    "relations": [
        {"id": "R1", "type": "CID", "arg1_id": "T1", "arg2_id": "T3"},
        {"id": "R2", "type": "causes", "arg1_id": "T1", "arg2_id": "T2"},
    ],
}


def rows(folder: Path, text: str) -> list[Any]:
    file = folder / "a.bioc"
    file.write_text(text, encoding="utf-8")
    return [found.row for found in read(str(file), "bioc")]


@pytest.mark.parametrize(
    "text",
    [
        XML,
        json.dumps({"source": "PubTator", "infons": {}, "documents": [DOCUMENT, NEXT]}, indent=1),
        json.dumps({"PubTator3": [DOCUMENT, NEXT]}),
        json.dumps([DOCUMENT, NEXT]),
        "\ufeff" + json.dumps(DOCUMENT) + "\n" + json.dumps(NEXT),
    ],
    ids=["xml", "collection", "PubTator3", "array", "a line each"],
)
def test_documents_become_rows_in_bigbios_form(text: str, tmp_path: Path) -> None:
    first, second = rows(tmp_path, text)
    assert first == ROW
    assert (second["document_id"], second["entities"], second["relations"]) == ("228", [], [])


def test_sentences_are_passages_where_a_passage_has_no_text(tmp_path: Path) -> None:
    sentences = [
        {"offset": 0, "text": "One.", "annotations": [annotation("0", "X", "", "One", (0, 3))]},
        {"offset": 6, "text": "Two.", "annotations": [annotation("1", "X", "-", "Two", (6, 3))]},
    ]
    (row,) = rows(tmp_path, json.dumps({"id": "1", "passages": [{"offset": 0, "sentences": sentences}]}))
    assert [passage["offsets"] for passage in row["passages"]] == [[[0, 4]], [[6, 10]]]
    assert [entity["text"] for entity in row["entities"]] == [["One"], ["Two"]]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"length": 17', '"length": 16', "the text at the offsets of entity 3 differs from the entity"),
        ('"offset": 33', '"offset": 333', "the offsets of entity 3 are outside the text"),
        ('"refid": "2"', '"refid": "9"', "relation 2 refers to an entity that the document does not mention"),
        ('{"refid": "2"}', "", "a relation does not connect two entities"),
        ('"passages"', '"sections"', "this is not a BioC document (KeyError)"),
        ('"offset": 22, "text"', '"offset": "x", "text"', "this is not a BioC document (ValueError)"),
    ],
)
def test_a_document_with_a_mistake_is_a_bad_row(old: str, new: str, why: str, tmp_path: Path) -> None:
    text = json.dumps(DOCUMENT)
    assert old in text
    bad, good = rows(tmp_path, text.replace(old, new, 1).replace("}, ]", "}]") + json.dumps(NEXT))
    assert isinstance(bad, BadRowError)
    assert str(bad) == why
    assert good["document_id"] == "228"


def test_a_document_has_the_line_it_begins_on(tmp_path: Path) -> None:
    file = tmp_path / "a.bioc.xml"
    file.write_text(XML)
    assert [found.line for found in read(str(file), "bioc")] == [4, 18]


def test_xml_that_is_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the XML is not well-formed at line 18, column \d+"):
        rows(tmp_path, XML[: XML.index("Next")])


def test_passages_nested_without_end_are_a_bad_row(tmp_path: Path) -> None:
    (bad,) = rows(tmp_path, "<document>" + "<passage>" * 5000 + "</passage>" * 5000 + "</document>")
    assert isinstance(bad, BadRowError)


def test_entities_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    declared = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    with pytest.raises(InputError, match="declares entities"):
        rows(tmp_path, f"{declared}<collection><document><id>&x;</id></document></collection>")
