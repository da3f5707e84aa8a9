"""Predictions in the layouts of the reference systems."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medray.evaluate.prediction.layouts import TeamName, remove_layouts, without_section_header, write_layout


def predictions(folder: Path) -> Path:
    rows = [
        {"id": "case_1.txt", "prediction": "mild\n  fever", "reference": "fever, mild"},
        {"id": "../case 2", "prediction": ""},
        {"id": "case_1", "prediction": "rash"},
        {"id": "///", "prediction": "\u00e4"},
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_generated_predictions_are_lines_and_a_table(tmp_path: Path) -> None:
    write_layout(predictions(tmp_path), "generated")
    assert (tmp_path / "generated_predictions.txt").read_text() == "mild fever\n\nrash\n\u00e4\n"
    with (tmp_path / "generated_predictions_df.csv").open(newline="") as stream:
        found = list(csv.reader(stream))
    assert found[0] == ["output", "prediction"]
    assert found[1] == ["fever, mild", "mild\n  fever"]
    assert len(found) == 5


@pytest.mark.parametrize("named", [False, True])
def test_one_summary_per_row_stays_inside_its_folder(named: bool, tmp_path: Path) -> None:
    name = TeamName(team="my team", run_id="2", subtask="en") if named else None
    [folder] = write_layout(predictions(tmp_path), "sum", name)
    assert folder.name == ("my-team_multiclinsum_en_run_2" if named else "summaries")
    found = {path.name: path.read_text() for path in Path(str(folder)).iterdir()}
    assert found == {
        "case_1_sum.txt": "mild\n  fever\n",
        "case-2_sum.txt": "\n",
        "case_1-3_sum.txt": "rash\n",
        "row-4_sum.txt": "\u00e4\n",
    }


def test_layouts_of_other_predictions_are_removed(tmp_path: Path) -> None:
    write_layout(predictions(tmp_path), "generated")
    for name in (None, TeamName(team="a", run_id="2", subtask="en")):
        write_layout(tmp_path, "sum", name)
    remove_layouts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_names_that_look_numbered_lose_no_row(tmp_path: Path) -> None:
    rows = [{"id": name, "prediction": str(n)} for n, name in enumerate(("a-3", "a", "a"))]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [folder] = write_layout(tmp_path, "sum")
    assert sorted(path.read_text() for path in Path(str(folder)).iterdir()) == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Section header: GENHX\nSection text: fever since\nMonday", "fever since\nMonday"),
        ("section header: A section text:", ""),
        ("fever", "fever"),
        ("the section text: fever", "the section text: fever"),
    ],
)
def test_section_headers_are_removed_from_answers_of_that_form_only(text: str, kept: str) -> None:
    assert without_section_header(text) == kept
