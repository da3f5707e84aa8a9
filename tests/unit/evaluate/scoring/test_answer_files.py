"""Files with answers: columns by name, joins by id, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.errors import InputError
from medray.evaluate.metrics.rows import Entity
from medray.evaluate.scoring.answer_files import Answers, answers_of, by_id, common, read_rows

Row = dict[str, Any]


def of(*rows: Row, names: dict[str, str] | None = None, references: list[Row] | None = None) -> Answers:
    known = None if references is None else by_id(references, "references.jsonl", {})
    return answers_of(rows, "file.jsonl", names or {}, known)


def refused(*rows: Row, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        of(*rows, **given)
    assert caught.value.fix
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_columns_and_their_other_names() -> None:
    found = of({"id": 7, "prediction": None, "label": ["a", "ü"], "finish": "length", "group": 3})
    assert found.rows.ids == ("7",)
    assert found.rows.predictions == ("",)
    assert [each.text for each in found.rows.references or ()] == ['["a", "ü"]']
    assert (found.ended, found.rows.groups) == ((False,), ("3",))
    frame = of({"output": "wanted", "prediction": "said"})  # generated_predictions_df.csv
    assert (frame.has_ids, frame.rows.ids) == (False, ("1",))
    assert frame.rows.references is not None
    named = of(
        {"answer": "x", "prediction": "y", "label": "z"},
        names={"reference": "prediction", "prediction": "answer"},
    )
    assert named.rows.predictions == ("x",)
    assert named.rows.references is not None
    assert named.rows.references[0].text == "y"


def test_reasoning_is_removed_from_both() -> None:
    found = of({"prediction": "so</think>yes", "reference": "<think>why</think> yes"})
    assert found.rows.predictions == ("yes",)
    assert found.rows.references is not None
    assert found.rows.references[0].text == "yes"


def test_entities_and_options_may_be_json_text_as_in_csv() -> None:
    [reference] = (
        of(
            {
                "prediction": "x",
                "reference": "y",
                "entities": '[{"text": "Rash", "assertion": "absent"}, "cough"]',
            }
        ).rows.references
        or ()
    )
    assert reference.entities == (Entity("Rash", "absent"), Entity("cough"))
    options = of({"id": "a", "reference": "A", "option_logprobs": "[-1, -2]"}).rows.options
    assert options is not None
    assert (options[0].logprobs, options[0].lengths) == ((-1.0, -2.0), None)
    by_name = of(
        {"reference": "A", "option_logprobs": {"B": -2, "A": -1}, "option_lengths": [1, 2]}
    ).rows.options
    assert by_name is not None
    assert (by_name[0].logprobs, by_name[0].lengths) == ((-1.0, -2.0), (1.0, 2.0))


def test_references_are_joined_by_id_and_the_rest_is_counted() -> None:
    predictions = [
        {"id": "b", "prediction": "2"},
        {"id": "a", "prediction": "1"},
        {"id": "x", "prediction": "3"},
    ]
    references = [{"id": name, "label": name.upper(), "group": "g"} for name in "abc"]
    found = of(*predictions, references=references)
    assert found.rows.ids == ("b", "a")
    assert [each.text for each in found.rows.references or ()] == ["B", "A"]
    assert found.rows.groups == ("g", "g")
    assert found.notes == (
        "1 of 3 predictions have no reference and are left out",
        "1 of 3 references have no prediction and are left out",
    )


def test_rows_without_a_reference_among_others_are_left_out_and_counted() -> None:
    found = of(
        {"prediction": "1"}, {"prediction": "2", "reference": None}, {"prediction": "3", "reference": "x"}
    )
    assert (found.rows.ids, found.rows.predictions) == (("2", "3"), ("2", "3"))
    assert [each.text for each in found.rows.references or ()] == ["", "x"]
    assert found.notes == ("1 of 3 rows have no reference and are left out",)
    none = of({"prediction": "1"}, {"prediction": "2"})
    assert (len(none.rows), none.rows.references, none.notes) == (2, None, ())


def test_the_named_column_of_the_references_wins_over_one_that_has_the_usual_name() -> None:
    rows = [{"id": "a", "gold": "right", "reference": "other", "label": "third"}]
    known = by_id(rows, "gold.jsonl", {"reference": "gold"})
    found = answers_of([{"id": "a", "prediction": "said"}], "file.jsonl", {}, known)
    assert [each.text for each in found.rows.references or ()] == ["right"]


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        ([{"id": "a", "prediction": "secret"}] * 2, {}, "ids occur more than once: 1 of 1, such as 'a'"),
        ([{"id": "a"}, {"prediction": "secret"}], {}, "column 'id': 1 of 2 rows have no such value"),
        ([{"id": True, "prediction": "secret"}], {}, "an id that is not text or a whole number"),
        ([{"prediction": "secret"}], {"names": {"prediction": "said"}}, "there is no column 'said' for prediction"),
        ([{"id": "a", "prediction": ""}], {"references": [{"id": "b", "label": "secret"}]}, "no id of the 1 pred"),
        ([{"id": "a", "prediction": ""}], {"references": [{"label": "secret"}]}, "references have no column id"),
        ([{"id": "a", "prediction": ""}], {"references": [{"id": "a"}]}, "no row has one of the columns reference"),
        ([{"prediction": "", "reference": "", "entities": "secret"}], {}, "1 of 1 rows have no list of entities"),
        ([{"prediction": "", "reference": "", "entities": [{"text": ""}]}], {}, "have no list of entities"),
        ([{"reference": "A", "option_logprobs": ["secret"]}], {}, "have no list of numbers"),
    ],
)  # fmt: skip
def test_refused(rows: list[Row], given: dict[str, Any], message: str) -> None:
    assert message in refused(*rows, **given)


def test_common_rows_of_two_files() -> None:
    first = of(*({"id": name, "prediction": name} for name in "abcd"))
    second = of(*({"id": name, "prediction": name} for name in "dxb"))
    one, other = common(first, second)
    assert one.rows.ids == other.rows.ids == ("b", "d")
    assert other.rows.predictions == ("b", "d")
    assert common(first, first)[0] is first
    unnamed = of({"prediction": "a"}, {"prediction": "b"})
    assert common(unnamed, unnamed)[1].rows.ids == ("1", "2")
    for a, b in (
        (first, of({"id": "z", "prediction": ""})),
        (first, unnamed),
        (unnamed, of({"prediction": ""})),
    ):
        with pytest.raises(InputError):
            common(a, b)


def test_files_of_all_formats_and_bad_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "prediction": "x, y", "reference": "z"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text('id,prediction,reference\na,"x, y",z\n')
    for name in ("a.json", "a.jsonl", "a.csv"):
        assert read_rows(str(tmp_path / name), key="FILE") == rows
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\nsecret\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "a.txt").write_text("x")
    for name, message in (
        ("bad.jsonl", "line 2 is bad: not valid JSON"),
        ("empty.jsonl", "the file has no rows"),
        ("a.txt", "shows no format"),
        ("none.jsonl", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(str(tmp_path / name), key="FILE")
