"""The CoNLL reader gives one row per sentence, with entities from tags."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data.readers import read
from medray.data.records import BadRowError, Extraction
from medray.data.schemas import parse


def rows(folder: Path, text: str | bytes, name: str = "a.conll") -> list[Any]:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return [found.row for found in read(str(file), "conll")]


def entities(folder: Path, tags: str) -> list[tuple[str, str]]:
    (row,) = rows(folder, "".join(f"w{number}\t{tag}\n" for number, tag in enumerate(tags.split())))
    return [(each["type"], each["text"][0]) for each in row["entities"]]


def test_a_sentence_is_its_tokens_joined_by_blanks(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "Ataxia\tB-Disease\n-\tI-Disease\ntelangiectasia\tI-Disease\nis\tO\nraré\tB-X\n")
    assert row == {
        "passages": [{"type": "sentence", "text": ["Ataxia - telangiectasia is raré"], "offsets": [[0, 31]]}],
        "entities": [
            {
                "id": "T1",
                "type": "Disease",
                "text": ["Ataxia - telangiectasia"],
                "offsets": [[0, 23]],
                "normalized": [],
            },
            {"id": "T2", "type": "X", "text": ["raré"], "offsets": [[27, 31]], "normalized": []},
        ],
        "relations": [],
    }
    record = parse(row, ColumnsConfig(), source="a", number=3)
    assert isinstance(record, Extraction)
    assert record.origin.id == "a:4"


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("B-D I-D O", [("D", "w0 w1")]),
        ("I-D I-D O I-D", [("D", "w0 w1"), ("D", "w3")]),  # IOB1 begins with I-
        ("I-D B-D I-D", [("D", "w0"), ("D", "w1 w2")]),
        ("B-D I-C", [("D", "w0"), ("C", "w1")]),
        ("B-D O I-D", [("D", "w0"), ("D", "w2")]),
        ("B-D E-D S-C", [("D", "w0 w1"), ("C", "w2")]),
        ("B-D L-D U-D U-D", [("D", "w0 w1"), ("D", "w2"), ("D", "w3")]),
        ("B I O B", [("", "w0 w1"), ("", "w3")]),
        ("B-cell-line I-cell-line", [("cell-line", "w0 w1")]),
        ("O O", []),
    ],
)
def test_tags_of_every_scheme(tags: str, wanted: list[tuple[str, str]], tmp_path: Path) -> None:
    assert entities(tmp_path, tags) == wanted


def test_columns_by_tabs_or_blanks_first_and_last(tmp_path: Path) -> None:
    text = "a b\tNN\tO\nfever\tNN\tB-D\n\nhigh JJ x O\r\nfever NN x B-D\r\n\r\n\r\n"
    found = rows(tmp_path, text)
    assert [row["passages"][0]["text"] for row in found] == [["a b fever"], ["high fever"]]
    assert [row["entities"][0]["text"] for row in found] == [["fever"], ["fever"]]


def test_lines_and_positions(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_bytes(b"\n\na\tO\nb\tO\n\n-DOCSTART-\tO\n\nc\tO\n")
    assert [(found.position, found.line) for found in read(str(file), "conll")] == [(0, 3), (1, 8)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"fever\tX-D\n", "line 1 has a tag that is not O, B-, I-, E-, S-, L- or U-"),
        (b"fever\tO-D\n", "line 1 has a tag that is not O, B-, I-, E-, S-, L- or U-"),
        (b"a\tO\nfever\n", "line 2 has no token or no tag"),
        (b"a\tO\n\tO\n", "line 2 has no token or no tag"),
        (b"a\tO\n\xff\tO\n", "line 2 is not UTF-8"),
    ],
)
def test_a_sentence_with_a_mistake_is_a_bad_row(text: bytes, why: str, tmp_path: Path) -> None:
    bad, good = rows(tmp_path, text + b"\nfine\tO\n")
    assert isinstance(bad, BadRowError)
    assert str(bad) == why
    assert isinstance(good, dict)


class TestDocuments:
    TEXT = "-DOCSTART- -X- O\n\na O\n\nb O\n\n-DOCSTART- -X- O\nc O\n"

    def test_sentences_of_one_document_share_its_id(self, tmp_path: Path) -> None:
        first, second, third = rows(tmp_path, self.TEXT)
        assert first["document_id"] == second["document_id"] != third["document_id"]
        assert len({row["id"] for row in (first, second, third)}) == 3
        groups = [
            parse(row, ColumnsConfig(), form="bigbio", source="s", number=0).origin.group
            for row in (first, second, third)
        ]
        assert groups == [row["document_id"] for row in (first, second, third)]

    def test_documents_of_equally_named_files_are_told_apart(self, tmp_path: Path) -> None:
        """Otherwise validation/a.conll would look like a leak of train/a.conll."""
        (tmp_path / "other").mkdir()
        here = rows(tmp_path, self.TEXT)
        there = rows(tmp_path / "other", self.TEXT.replace("a O", "d O"))
        assert here[0]["document_id"] != there[0]["document_id"]


def test_the_ncbi_disease_corpus_is_read_whole(corpora: Path) -> None:
    found = list(read(str(corpora / "ncbi_disease" / "train.tsv"), "conll"))
    assert len(found) == 5432
    counts = Counter(
        entity["type"] for each in found if isinstance(each.row, dict) for entity in each.row["entities"]
    )
    assert counts == {"Disease": 5145}  # grep -c B-Disease
