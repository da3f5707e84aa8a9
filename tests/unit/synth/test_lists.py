"""Tests of the resource files: a mistake is named with its file and index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.errors import InputError
from medray.synth.lists.read import FILES, OWN, read_lists
from medray.synth.lists.values import INCOME_GROUPS


def test_own_lists_fit_together() -> None:
    lists = read_lists(None)
    assert len(lists.tasks) == 13
    assert len(lists.all_countries) > 150
    assert [len(title.options) for title in lists.styles] == [5, 5, 6, 14, 3, 3]
    assert lists.styles[3].languages["A"] == "fr"
    assert {lists.styles[4].turns, lists.styles[5].turns} == {3, 1}


def changed(name: str, change: Any) -> str:
    rows = json.loads((OWN / name).read_text())
    change(rows)
    return json.dumps(rows)


def rename(rows: list[dict[str, Any]], index: int, old: str, new: str) -> None:
    rows[index][new] = rows[index].pop(old)


@pytest.mark.parametrize(
    ("name", "change", "where", "what"),
    [
        ("medical_ai_tasks.json", lambda rows: rename(rows, 3, "task", "tsk"), "[3]", "no such key: 'tsk'"),
        ("medical_ai_tasks.json", lambda rows: rows[2].pop("max_token"), "[2]", "max_token is missing"),
        ("medical_ai_tasks.json", lambda rows: rows[1].update(max_token="9"), "[1]", "wrong type"),
        ("medical_topics.json", lambda rows: rows.append(rows[4]), "[50]", "repeats entry [4]"),
        ("medical_professions.json", lambda rows: rows[0].update(specialties=["A", "A"]), "[0]", "repeats specialties[0]"),
        ("patient_age_medical_profession.json", lambda rows: rows[1]["specialties"][0].__setitem__(1, ["Babies"]), "[1]", "'Babies'"),
        ("patient_age_medical_profession.json", lambda rows: rows.pop(0), "", "the ages of 26 specialties are missing"),
        ("sex_and_gender.json", lambda rows: rows[0]["rates"].__setitem__(0, 0.5), "[0]", "sum to 0.6"),
        ("answer_styles.json", lambda rows: rows[4].update(turns=9), "[4]", "turns is not"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_index(
    tmp_path: Path, name: str, change: Any, where: str, what: str
) -> None:
    (tmp_path / name).write_text(changed(name, change))
    with pytest.raises(InputError) as error:
        read_lists(str(tmp_path))
    assert str(error.value.file) == str(tmp_path / name)
    assert error.value.key == (where or None)
    assert what in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Land,Group\n", "another header"),
        ("Country,Income Category\nFiji,Rich\n", "[0]"),
        ('Country,Income Category\n"A, B",Low-income\n"A, B",Low-income\n', "repeats entry [0]"),
        ("Country,Income Category\nFiji,Low-income\n", "no country has the income group High-income"),
    ],
)
def test_countries_are_checked(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "countries_by_income_category.csv").write_text(text)
    with pytest.raises(InputError, match=what.replace("[", r"\[")):
        read_lists(str(tmp_path))


def test_a_country_may_contain_a_comma(tmp_path: Path) -> None:
    rows = [f'"Korea, part {number}",{group}' for number, group in enumerate(INCOME_GROUPS)]
    (tmp_path / "countries_by_income_category.csv").write_text("\n".join(["Country,Income Category", *rows]))
    assert read_lists(str(tmp_path)).all_countries[0] == "Korea, part 0"


def test_languages_of_a_file_without_codes_are_found_by_name(tmp_path: Path) -> None:
    def without(rows: list[dict[str, Any]]) -> None:
        del rows[3]["language_options"]

    (tmp_path / "answer_styles.json").write_text(changed("answer_styles.json", without))
    assert read_lists(str(tmp_path)).styles[3].languages["H"] == "zh"


def test_a_folder_without_the_name_of_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "medical_topic.json").write_text('[{"topic": "A"}]')
    with pytest.raises(InputError, match="no file in this folder has the name of a list"):
        read_lists(str(tmp_path))
    assert {file.name for file in OWN.iterdir() if file.suffix in (".json", ".csv")} == set(FILES)
