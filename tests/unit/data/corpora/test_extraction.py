"""Extraction corpora are read from every published format, and written as the published scripts write them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medray.config.columns import ColumnsConfig
from medray.data import corpora
from medray.data.corpora import CorpusOptions, extraction
from medray.data.records import BadRowError, Extraction
from medray.data.schemas import parse

DOCUMENT = {
    "id": "0",
    "document_id": "7",
    "passages": [
        {"id": "p1", "type": "title", "text": ["Aspirin and ulcer."], "offsets": [[0, 18]]},
        {"id": "p2", "type": "middle", "text": ["Rats."], "offsets": [[19, 24]]},
        {"id": "p3", "type": "abstract", "text": ["aspirin hurts."], "offsets": [[25, 39]]},
    ],
    "entities": [
        {"id": "e1", "type": "Chemical", "text": ["aspirin"], "offsets": [[25, 32]], "normalized": []},
        {"id": "e2", "type": "Disease", "text": ["ulcer", "an ulcer"], "offsets": [[12, 17]], "normalized": []},
        {"id": "e3", "type": "Chemical", "text": ["Aspirin"], "offsets": [[0, 7]], "normalized": []},
    ],
    "relations": [
        {"id": "r1", "type": "CID", "arg1_id": "e1", "arg2_id": "e2"},
        {"id": "r2", "type": "CID", "arg1_id": "e1", "arg2_id": "e2"},
        {"id": "r3", "type": "CID", "arg1_id": "e3", "arg2_id": "e2"},
    ],
}  # fmt: skip
EMPTY = {"document_id": "8", "passages": [{"text": ["Nothing."]}], "entities": [], "relations": []}


def rows(name: str, root: Path, split: str = "train") -> tuple[list[Any], Counter[str]]:
    dropped: Counter[str] = Counter()
    return [each.row for each in corpora.rows(name, str(root), split, CorpusOptions(), dropped)], dropped


def write(file: Path, *documents: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, documents)))


def test_answers_are_of_the_types_that_the_corpus_asks_for(tmp_path: Path) -> None:
    write(tmp_path / "bc5cdr_train.jsonl", DOCUMENT, EMPTY)
    (first, second), _ = rows("bc5cdr_chemical", tmp_path)
    assert [entity["id"] for entity in first["entities"]] == ["e1", "e3"]
    assert first["relations"] == []
    assert (first["id"], second["id"]) == ("7", "8")
    assert [entity["id"] for entity in rows("bc5cdr_disease", tmp_path)[0][0]["entities"]] == ["e2"]
    record = parse(first, ColumnsConfig(), form="bigbio", source="", number=0)
    assert isinstance(record, Extraction)
    assert (record.origin.id, record.origin.group) == ("7", "7")


def test_relations_leave_out_documents_without_entities_and_say_so(tmp_path: Path) -> None:
    write(tmp_path / "bc5cdr_train.jsonl", DOCUMENT, EMPTY)
    made, dropped = rows("bc5cdr", tmp_path)
    assert [row["id"] for row in made] == ["7"]
    assert len(made[0]["relations"]) == 3
    assert dropped == {"a document without entities": 1}


def test_processed_entities() -> None:
    """The text is that of the first and last passage; of each entity, the spelling with an upper-case letter is kept."""
    found = extraction.processed([DOCUMENT, EMPTY], "ner")
    assert found == {"7": ["Aspirin and ulcer. aspirin hurts.", ["Aspirin", "ulcer"]], "8": ["Nothing.", []]}
    assert extraction.processed([DOCUMENT], "ner", ("Disease",))["7"][1] == ["ulcer"]


def test_processed_relations() -> None:
    found = extraction.processed([DOCUMENT, EMPTY], "re")
    text = "Aspirin and ulcer. Rats. aspirin hurts."
    assert found == {"7": [text, [["aspirin", "ulcer"], ["Aspirin", "ulcer"]]]}
    assert extraction.processed([DOCUMENT], "re", ("other",))["7"] == [text, []]


def test_the_rich_form_keeps_offsets_and_types() -> None:
    found = extraction.rich(DOCUMENT)
    assert set(found) == {"id", "text", "entities", "relations"}
    for entity in found["entities"]:
        ((start, end),) = entity["offsets"]
        assert found["text"][start:end] == entity["text"][0]
    assert found["relations"][0] == {"id": "r1", "type": "CID", "arg1_id": "e1", "arg2_id": "e2"}


def test_biorelex_is_tested_on_its_validation_split(tmp_path: Path) -> None:
    write(tmp_path / "biorelex_validation.jsonl", DOCUMENT)
    assert [row["id"] for row in rows("biorelex", tmp_path, "test")[0]] == ["7"]
    assert corpora.splits("biorelex", str(tmp_path)) == ("test",)


PUBTATOR = "7|t|Aspirin and ulcer.\n7|a|aspirin hurts.\n7\t0\t7\tAspirin\tChemical\tD1\n7\t12\t17\tulcer\tDisease\tD2\n7\tCID\tD1\tD2\n"
BIOC = (
    "<collection><document><id>7</id><passage><infon key='type'>title</infon><offset>0</offset>"
    "<text>Aspirin and ulcer.</text><annotation id='1'><infon key='type'>Gene</infon>"
    "<location offset='0' length='7'/><text>Aspirin</text></annotation></passage></document></collection>"
)


@pytest.mark.parametrize(
    ("name", "split", "file", "content", "answers"),
    [
        ("bc5cdr_chemical", "test", "CDR_TestSet.PubTator.txt", PUBTATOR, ["Aspirin"]),
        ("bc5cdr_disease", "validation", "CDR_DevelopmentSet.PubTator.txt", PUBTATOR, ["ulcer"]),
        ("ncbi_disease", "train", "NCBItrainset_corpus.txt", PUBTATOR, ["Aspirin", "ulcer"]),
        ("ncbi_disease", "validation", "devel.tsv", "A\tO\nulcer\tB-Disease\n\n", ["ulcer"]),
        ("nlm_gene", "test", "nlm_gene_test.BioC.xml", BIOC, ["Aspirin"]),
        ("chemdner", "train", "chemdner_train.pubtator", PUBTATOR, ["Aspirin", "ulcer"]),
        ("chemdner", "test", "test.json", json.dumps([DOCUMENT]), ["Aspirin", "ulcer"]),
    ],
)
def test_formats(name: str, split: str, file: str, content: str, answers: list[str], tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    made, _ = rows(name, tmp_path, split)
    assert [found[1] for found in extraction.processed(made, "ner").values()] == [answers]


def test_the_shards_of_a_hub(tmp_path: Path) -> None:
    folder = tmp_path / "ddi_corpus_bigbio_kb"
    folder.mkdir()
    for number in range(2):
        table = pa.Table.from_pylist([{**DOCUMENT, "document_id": str(number)}])
        pq.write_table(table, folder / f"train-0000{number}-of-00002.parquet")
    made, _ = rows("ddi_corpus", tmp_path)
    assert [row["id"] for row in made] == ["0", "1"]
    assert len(extraction.processed(made, "re")["0"][1]) == 2


def test_nlm_gene_as_published(tmp_path: Path) -> None:
    (tmp_path / "FINAL").mkdir()
    for document in ("7", "9"):
        (tmp_path / f"FINAL/{document}.BioC.XML").write_text(BIOC.replace("<id>7", f"<id>{document}"))
    (tmp_path / "Pmidlist.Train.txt").write_text("9\n")
    (tmp_path / "Pmidlist.Test.txt").write_text("7\n")
    assert [row["id"] for row in rows("nlm_gene", tmp_path)[0]] == ["9"]
    assert [row["id"] for row in rows("nlm_gene", tmp_path, "test")[0]] == ["7"]


def test_bad_documents_are_named(tmp_path: Path) -> None:
    write(
        tmp_path / "train.jsonl",
        DOCUMENT,
        DOCUMENT,
        {**DOCUMENT, "document_id": "9", "passages": []},
        {**DOCUMENT, "document_id": "9", "entities": "none"},
        {"document_id": "9", "passages": DOCUMENT["passages"]},
        {**DOCUMENT, "document_id": "9", "entities": [{"id": "e"}]},
    )
    made, _ = rows("chemdner", tmp_path)
    assert [isinstance(row, BadRowError) for row in made] == [False, *[True] * 5]
    assert str(made[1]) == "an earlier document has the same document_id"


def test_bc5cdr_as_published(corpora_folder: Path) -> None:
    folder = corpora_folder / "bc5cdr"
    for split in ("train", "validation"):
        for name in ("bc5cdr", "bc5cdr_chemical", "bc5cdr_disease"):
            made, dropped = rows(name, folder, split)
            assert len(made) == corpora.counts(name)[split] == 500
            assert not dropped
    chemicals, _ = rows("bc5cdr_chemical", folder)
    assert {entity["type"] for row in chemicals for entity in row["entities"]} == {"Chemical"}
    pairs = extraction.processed(rows("bc5cdr", folder)[0], "re")
    lines = (folder / "CDR_TrainingSet.PubTator.txt").read_text().splitlines()
    assert sum(len(row["relations"]) for row in rows("bc5cdr", folder)[0]) == sum(
        "\tCID\t" in line for line in lines
    )
    assert all(answers for _, answers in pairs.values())
    for row in chemicals[:50]:
        found = extraction.rich(row)
        assert all(
            found["text"][start:end] == entity["text"][0]
            for entity in found["entities"]
            for start, end in entity["offsets"]
        )


def test_ncbi_disease_as_published(corpora_folder: Path) -> None:
    made, _ = rows("ncbi_disease", corpora_folder / "ncbi_disease")
    assert len(made) == 5432
    assert not any(isinstance(row, BadRowError) for row in made)
    assert len({row["id"] for row in made}) == 5432
