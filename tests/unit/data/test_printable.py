"""Text of a data file that a message may print: names of columns and types, never text of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data.index.row_index import check_columns, index_range
from medray.data.index.sources import FileSource
from medray.data.printable import column_name, column_names, type_names
from medray.data.records import BadRowError
from medray.data.schemas import parse
from medray.errors import InputError

SECRETS = (
    "Jane",
    "Roe",
    "Miller",
    "miller",
    "metformin",
    "00123",
    "HIV",
    "positive",
    "2021",
    "@",
    "fever",
    "pain",
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "Jane Roe,MRN 00123,HIV positive,2021-03-04\nx,y,z,w\n"),
        ("a.csv", "Jane,positive\nJohn,negative\n"),
        ("a.csv", "note,Jane Roe,HIV positive\nnote,John Roe,HIV negative\n"),
        ("a.csv", "note,Miller,HIV_positive,metformin\nnote,Smith,HIV_negative,aspirin\n"),
        ("a.csv", "note,miller,metformin,class\nnote,smith,aspirin,class\n"),
        ("a.csv", "note,answer,patient_Jane_Roe_HIV\na,b,c\n"),
        ("a.csv", "note,patient 12 34 56\na,b\n"),
        ("a.tsv", "jane@example.org\tShe has had a fever and a pain for days\nx\ty\n"),
        ("a.json", json.dumps({"00123": "HIV positive", "00124": "fever"})),
        ("a.json", json.dumps({"Jane Roe": "HIV positive", "John Roe": {"note": "fever"}})),
        ("a.jsonl", json.dumps({"Jane Roe": "fever", "MRN 00123": 1}) + "\n"),
    ],
)
def test_names_that_look_like_values_are_counted_not_printed(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    source = FileSource(path=str(tmp_path / name), format=name.partition(".")[2])
    index = index_range(source, 0, None, 10)
    with pytest.raises(InputError) as caught:
        check_columns(source, set(index.columns_seen), "data.train")
    said = f"{caught.value} {index.rejects}".replace(str(tmp_path), "")
    assert not [secret for secret in SECRETS if secret in said]
    count = len(index.columns_seen)
    if "note" in index.columns_seen:
        usual = sorted({"note", "answer", "class"} & set(index.columns_seen))
        hidden = f"{count - len(usual)} more that are not shown"
        assert caught.value.fix == f"use one of its columns: {', '.join([*usual, hidden])}"
        assert "12 34" not in said
    else:
        assert f"the names of its {count} columns are not shown" in caught.value.what
        header = "its first line does not seem to be a header" in caught.value.what
        assert header == (not name.startswith("a.json"))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["question", "opa", "choice_type", "exp"], "choice_type, exp, opa, question"),
        (["Section header", "Patient note", "dialogue"], "Patient note, Section header, dialogue"),
        (["text", "frage", "Unnamed: 0"], "text, 2 more that are not shown"),
        (["", "text"], "text, 1 more that are not shown"),
        (["text", "x" * 41], "text, 1 more that are not shown"),
        (["text", "Jane", "2021-03-04"], "text, 2 more that are not shown"),
        (["frage", "antwort"], None),
        ([], None),
        (["text", "label", "patient_Jane_Roe_HIV"], "label, text, 1 more that are not shown"),
        (["inputText", "input_12", "input 1 234"], "inputText, input_12, 1 more that are not shown"),
        (
            ["text", *(f"option{number}" for number in range(30))],
            ", ".join(sorted(f"option{number}" for number in range(30))[:20])
            + ", 11 more that are not shown",
        ),
    ],
)
def test_usual_names_are_listed(names: list[str], shown: str | None) -> None:
    assert column_names(names) == shown


def test_types_are_names_unless_there_are_too_many() -> None:
    assert type_names({"Problem", "Disease or Syndrome"}) == "Disease or Syndrome, Problem"
    assert type_names({"Problem", "MRN 00123"}) == "Problem, 1 more that are not shown"
    assert type_names({"2021-03-04"}) is None
    assert type_names({f"type{letter}{other}" for letter in "abcdefgh" for other in "abcdefgh"}) is None


def test_one_name() -> None:
    assert [column_name(name) for name in ("image", "Jane Roe", "12", "miller")] == [
        "column 'image'",
        *["a column whose name is not shown"] * 3,
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"input": "q", "label": "a", "rationale": {"Jane Roe": ["fever"]}},
        {"input": "q", "label": "a", "rationale": {"Jane Roe": "fever\0"}},
        {"input": "q", "label": "a", "entities": [{"text": "fever", "assertion": "Jane Roe"}]},
        {"input": "q", "label": "a", "entities": [{"text": " ", "assertion": "present"}]},
    ],
)
def test_a_reason_names_no_key_or_value_of_the_record(row: dict[str, Any]) -> None:
    with pytest.raises(BadRowError) as caught:
        parse(row, ColumnsConfig(entities="entities", rationale="rationale"), source="a", number=0)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
