"""The PubTator reader gives documents with entities at their offsets and relations between mentions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data.readers import read
from medray.data.records import BadRowError, Extraction
from medray.data.schemas import parse

DOCUMENT = """227|t|Naloxone and clonidine.
227|a|Ocular and auditory toxicity of naloxone.
227\t0\t8\tNaloxone\tChemical\tD009270
227\t13\t22\tclonidine\tChemical\t-1
227\t24\t52\tOcular and auditory toxicity\tDisease\tD014786|D006311\tOcular toxicity|auditory toxicity
227\t56\t64\tnaloxone\tChemical\tMESH:D009270
227\tCID\tD009270\tD006311
"""


def rows(folder: Path, text: str | bytes) -> list[Any]:
    file = folder / "a.pubtator"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return [found.row for found in read(str(file), "pubtator")]


def reason(folder: Path, text: str | bytes) -> str:
    (row,) = rows(folder, text)
    assert isinstance(row, BadRowError)
    return str(row)


def test_a_document_is_a_row_in_bigbios_form(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, DOCUMENT)
    assert row["document_id"] == "227"
    assert row["passages"] == [
        {"type": "title", "text": ["Naloxone and clonidine."], "offsets": [[0, 23]]},
        {"type": "abstract", "text": ["Ocular and auditory toxicity of naloxone."], "offsets": [[24, 65]]},
    ]
    assert [(each["id"], each["text"], each["offsets"]) for each in row["entities"]] == [
        ("T1", ["Naloxone"], [[0, 8]]),
        ("T2", ["clonidine"], [[13, 22]]),
        ("T3", ["Ocular and auditory toxicity"], [[24, 52]]),
        ("T4", ["naloxone"], [[56, 64]]),
    ]
    assert [each["normalized"] for each in row["entities"]] == [
        [{"db_name": "", "db_id": "D009270"}],
        [],
        [{"db_name": "", "db_id": "D014786"}, {"db_name": "", "db_id": "D006311"}],
        [{"db_name": "MESH", "db_id": "D009270"}],
    ]
    # concepts become their first mentions, a composite one among them
    assert row["relations"] == [{"id": "R1", "type": "CID", "arg1_id": "T1", "arg2_id": "T3"}]


def test_a_relation_joins_first_mentions(tmp_path: Path) -> None:
    text = "1|t|a b a b\n" + "".join(
        f"1\t{2 * place}\t{2 * place + 1}\t{word}\tX\t{word.upper()}\n" for place, word in enumerate("abab")
    )
    (row,) = rows(tmp_path, text + "1\tCID\tB\tA\n")
    assert [(each["arg1_id"], each["arg2_id"]) for each in row["relations"]] == [("T2", "T1")]


def test_it_becomes_a_record(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, DOCUMENT)
    record = parse(row, ColumnsConfig(), source="a", number=0)
    assert isinstance(record, Extraction)
    assert (record.origin.id, record.origin.group) == ("227", "227")
    assert (len(record.entities), record.relations[0].second) == (4, "T3")


def test_offsets_count_characters_not_bytes(tmp_path: Path) -> None:
    text = "1|t|β-blocker 🩺.\n1|a|Fièvre.\n1\t0\t9\tβ-blocker\tChemical\tC\n1\t13\t19\tFièvre\tDisease\tD\n"
    (row,) = rows(tmp_path, text)
    assert row["passages"][1]["offsets"] == [[13, 20]]


def test_documents_end_at_a_blank_line_or_at_another_title(tmp_path: Path) -> None:
    file = tmp_path / "a.pubtator"
    file.write_bytes(b"\xef\xbb\xbf\r\n1|t|One\r\n1|a|\r\n2|t|Two\r\n2|a|b\r\n\r\n\r\n3|t|Three\r\n")
    found = list(read(str(file), "pubtator"))
    assert [(each.line, each.position) for each in found] == [(2, 0), (4, 1), (8, 2)]
    assert [each.row["passages"][0]["text"] for each in found if isinstance(each.row, dict)] == [
        ["One"],
        ["Two"],
        ["Three"],
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("13\t22", "14\t23"), "the text at the offsets of entity 2 differs from the entity"),
        (("56\t64", "56\t99"), "the offsets of entity 4 are outside the text"),
        (("0\t8", "8\t0"), "the offsets of entity 1 are outside the text"),
        (("CID\tD009270", "CID\tD1"), "relation 1 refers to an entity that the document does not mention"),
        (("227\t13", "228\t13"), "line 4 belongs to a different document"),
        (("227\tCID", "227"), "line 7 is not a PubTator line"),
        (("227|t|", ""), "line 1 is not a PubTator line"),
        (("227|a|", "227|t|"), None),
        (("227|t|", "227|a|"), "line 2 is a second title or abstract"),
    ],
)
def test_a_document_with_a_mistake_is_a_bad_row(
    change: tuple[str, str], why: str | None, tmp_path: Path
) -> None:
    changed = rows(tmp_path, DOCUMENT.replace(*change, 1) + "\n9|t|Next\n")
    assert changed[-1]["document_id"] == "9"
    assert isinstance(changed[-2], BadRowError)
    if why is not None:
        assert [str(row) for row in changed[:-1]] == [why]
    assert not any("aloxone" in str(row) for row in changed[:-1] if isinstance(row, BadRowError))


def test_text_that_is_not_utf8_spoils_one_document(tmp_path: Path) -> None:
    assert reason(tmp_path, DOCUMENT.replace("auditory", "audit\x00").encode().replace(b"\x00", b"\xff")) == (
        "line 2 is not UTF-8"
    )


@pytest.mark.parametrize(
    ("split", "chemicals", "diseases", "relations"),
    [("Training", 5203, 4182, 1038), ("Development", 5347, 4244, 1012)],
)
def test_bc5cdr_is_read_whole(
    split: str, chemicals: int, diseases: int, relations: int, corpora: Path
) -> None:
    """The counts are those of the corpus's own lines: grep -c for each type."""
    file = corpora / "bc5cdr" / f"CDR_{split}Set.PubTator.txt"
    found = list(read(str(file), "pubtator"))
    assert len(found) == 500
    bad = [each.line for each in found if isinstance(each.row, BadRowError)]
    assert bad == []
    counts = Counter(
        entity["type"] for each in found if isinstance(each.row, dict) for entity in each.row["entities"]
    )
    assert counts == {"Chemical": chemicals, "Disease": diseases}
    pairs = [pair for each in found if isinstance(each.row, dict) for pair in each.row["relations"]]
    assert len(pairs) == relations
    for each in found:
        assert isinstance(each.row, dict)
        types = {entity["id"]: entity["type"] for entity in each.row["entities"]}
        assert all(
            (types[pair["arg1_id"]], types[pair["arg2_id"]]) == ("Chemical", "Disease")
            for pair in each.row["relations"]
        )
