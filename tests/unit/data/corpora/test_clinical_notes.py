"""Dialogues and notes are read from MeDistill's files, from their sources, and from damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config.columns import ColumnsConfig
from medray.data import corpora
from medray.data.corpora import CorpusOptions
from medray.data.records import BadRowError, Distill, TwoStep
from medray.data.schemas import parse


def rows(name: str, root: Path, split: str = "train") -> list[dict[str, Any] | BadRowError]:
    return [each.row for each in corpora.rows(name, str(root), split, CorpusOptions())]


def write(file: Path, found: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=4), encoding="utf-8")


NOTE = {"input": "Doctor: Hello.\r\nPatient: Hi.", "output": "A greeting.", "rationale": "greeting: yes"}


def test_output_is_the_label_and_the_reverse_swaps_both(tmp_path: Path) -> None:
    write(tmp_path / "medqa_d2n_train.json", [NOTE])
    assert rows("medqa_d2n", tmp_path) == [
        {
            "id": "medqa_d2n-train-0",
            "input": NOTE["input"],
            "label": "A greeting.",
            "rationale": "greeting: yes",
        }
    ]
    assert rows("medqa_n2d", tmp_path) == [
        {
            "id": "medqa_n2d-train-0",
            "input": "A greeting.",
            "label": NOTE["input"],
            "rationale": "greeting: yes",
        }
    ]


def test_a_published_reverse_set_is_not_reversed_again(tmp_path: Path) -> None:
    write(tmp_path / "medqa_d2n_train.json", [NOTE])
    write(tmp_path / "medqa_n2d_train.json", [{"input": "note", "output": "dialogue"}])
    assert rows("medqa_n2d", tmp_path) == [{"id": "medqa_n2d-train-0", "input": "note", "label": "dialogue"}]


def test_a_test_row_needs_no_rationale_and_both_test_files_are_read(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"medqa_d2n_test{number}.json", [{"input": f"in {number}", "output": "out"}])
    assert [row["input"] for row in rows("medqa_d2n", tmp_path, "test")] == ["in 1", "in 2"]  # type: ignore[index]


def test_rationales_with_one_text_per_key_pass_through(tmp_path: Path) -> None:
    keyed = dict.fromkeys(corpora.RATIONALE_KEYS) | {"Age": "76"}
    write(tmp_path / "medsum_train.json", [{**NOTE, "rationale": keyed}])
    (row,) = rows("medsum", tmp_path)
    assert isinstance(row, dict)
    assert row["rationale"] == keyed
    record = parse(row, ColumnsConfig(), source="medsum", number=0)
    assert isinstance(record, Distill)
    assert record.rationale == keyed


def test_two_step_rows_pass_through(tmp_path: Path) -> None:
    source = {"input_1": "keys?", "input_2": "note?", "output": "A note.", "rationale": "A note."}
    write(tmp_path / "medqa_d2n_train.json", [source])
    (row,) = rows("medqa_d2n", tmp_path)
    assert row == {"id": "medqa_d2n-train-0", **source}
    assert isinstance(parse(row, ColumnsConfig(), source="", number=0), TwoStep)
    (reverse,) = rows("medqa_n2d", tmp_path)
    assert isinstance(reverse, BadRowError)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    write(
        tmp_path / "medsum_valid.json",
        [{"input": "", "output": "x"}, {"input": "x"}, {"input": "x", "output": [1]}],
    )
    reasons = [str(row) for row in rows("medsum", tmp_path, "validation")]
    assert reasons[0] == "column 'input' is empty"
    assert reasons[1].startswith("no column 'label' or 'output'")
    assert reasons[2] == "column 'output' holds a list, not text"


@pytest.mark.parametrize("inside", [True, False])
def test_full_notes_under_the_name_that_they_were_published_by(inside: bool, tmp_path: Path) -> None:
    write(tmp_path / "taskB/medqa_d2n_valid.json", [NOTE])
    found = rows("full_note", tmp_path / "taskB" if inside else tmp_path, "validation")
    assert [row["id"] for row in found] == ["full_note-validation-0"]  # type: ignore[index]


def test_mts_dialog_and_aci_csv(tmp_path: Path) -> None:
    (tmp_path / "MTS-Dialog-TrainingSet.csv").write_text(
        'ID,section_header,section_text,dialogue\n0,HPI,"A, b.",Hi\n'
    )
    (tmp_path / "TaskB-TrainingSet.csv").write_text(
        "dataset,encounter_id,dialogue,note\nvirt,1,Hello,Whole note\n"
    )
    assert rows("medqa_d2n", tmp_path) == [{"id": "medqa_d2n-train-0", "input": "Hi", "label": "A, b."}]
    assert rows("full_note", tmp_path) == [
        {"id": "full_note-train-0", "input": "Hello", "label": "Whole note"}
    ]


def test_medistill_as_published(corpora_folder: Path) -> None:
    folder = corpora_folder / "medistill_d2n"
    train, validation = (rows("medqa_d2n", folder, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (1201, 100)
    assert sum(not row["rationale"] for row in train) == 28  # type: ignore[index]
    assert corpora.corruption_warning(train) is None  # type: ignore[arg-type]
    with_notes = rows("medqa_d2n", corpora_folder / "mts_dialog")
    assert len(with_notes) == 1201


def test_the_damage_of_the_newest_file_is_found(corpora_folder: Path) -> None:
    """The same file with the replacement that broke the published one."""
    sound = rows("medqa_d2n", corpora_folder / "medistill_d2n")
    damaged = [{**row, "input": row["input"].replace("No", "Negative")} for row in sound]  # type: ignore[index, dict-item]
    warning = corpora.corruption_warning(damaged)
    assert warning is not None
    assert " of 1201 rows contain broken words" in warning
    assert int(warning.split(" ", 1)[0]) > 100


@pytest.mark.parametrize(
    "word", ["Negatives", "Negatively", "Negative", "negativet", "Negativeness.", "Negatived"]
)
def test_real_words_are_not_damage(word: str) -> None:
    assert (
        corpora.corruption_warning([{"input": f"{word} today", "rationale": {"a": word, "b": None}}]) is None
    )


@pytest.mark.parametrize(
    "rationale", ["Negativew: yes", {"Age": None, "Sex": "Negativet"}, ["x", "Negativermal"]]
)
def test_damage_in_any_form_of_rationale(rationale: Any) -> None:
    warning = corpora.corruption_warning([{"input": "x", "rationale": rationale}, {"input": "y"}])
    assert warning is not None
    assert warning.startswith("0 inputs and 1 rationales of 2 rows")
