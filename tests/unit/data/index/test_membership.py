"""Every row is in exactly one split: none is lost, doubled, or in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.config.data import DataConfig
from medray.data.corpora.published import holdout, subsample
from medray.data.index.membership import SplitIndex, join
from medray.data.index.sources import FileSource
from medray.data.index.split_checks import missing_ids
from medray.data.shards.shard_task import shard_records
from medray.errors import InputError


def source(folder: Path, rows: list[dict[str, Any]], name: str = "train") -> FileSource:
    return FileSource(path=str(tiny.write_jsonl(folder / f"{name}.jsonl", rows)), format="jsonl")


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "input": f"question {number}", "label": f"answer {number}"} | fields


def joined(
    train: FileSource, validation: FileSource | None = None, *, hold_out: float = 0.0, **data: Any
) -> dict[str, SplitIndex]:
    others = tiny.parts([validation], 4) if validation else []
    return join(tiny.parts([train], 4), others, DataConfig.model_validate(data), seed=3, hold_out=hold_out)


def ids(made: FileSource, index: SplitIndex) -> list[str]:
    return [record.origin.id for shard in index.shards for record in shard_records(made, shard)]


def test_a_split_takes_each_row_once(tmp_path: Path) -> None:
    made = source(tmp_path, [row(number) for number in range(200)])
    for by in ("row", "group"):
        found = joined(made, split={"validation": 0.25, "by": by})
        train, validation = ids(made, found["train"]), ids(made, found["validation"])
        assert sorted(train + validation) == sorted(f"r{number}" for number in range(200))
        assert len(validation) == 50


class TestIdsInAFile:
    ROWS = staticmethod(lambda: [row(number) for number in range(20)])

    @pytest.mark.parametrize(
        "text",
        [
            "r3\nr7\n\n r11 \nabsent\n",
            '["r3", "r7", "r11", "absent"]',
            '\ufeff{"r3": "yes", "r7": "no", "r11": "maybe", "absent": "yes"}',
        ],
    )
    def test_they_are_the_validation_split(self, text: str, tmp_path: Path) -> None:
        made = source(tmp_path, self.ROWS())
        (tmp_path / "ids").write_text(text, encoding="utf-8")
        # Neither duplicates nor a subsample of the training rows takes rows from an official split.
        found = joined(made, split={"validation_ids": str(tmp_path / "ids")}, subsample=0.5)
        assert ids(made, found["validation"]) == ["r3", "r7", "r11"]
        train = set(ids(made, found["train"]))
        assert len(train) == 8
        assert not train & {"r3", "r7", "r11"}
        assert found["validation"].missing_ids == 1
        assert missing_ids(found) == "ids in data.split.validation_ids that no good row has: 1"

    def test_leakage_is_refused_as_in_any_split(self, tmp_path: Path) -> None:
        made = source(tmp_path, [*self.ROWS(), row(20, input="question 3")])
        (tmp_path / "ids").write_text("r3")
        with pytest.raises(
            InputError, match="1 training rows have an input or a group that is also in valid"
        ):
            joined(made, split={"validation_ids": str(tmp_path / "ids")})
        found = joined(made, split={"validation_ids": str(tmp_path / "ids")}, leakage="drop")
        assert found["train"].rows == 19

    @pytest.mark.parametrize(
        ("text", "named", "message"),
        [
            ("a\nb", True, "none of the 2 ids in the file is the id of a training row"),
            ("r1", False, "because no row has an id"),
            ("\n".join(f"r{number}" for number in range(20)), True, "none is left for training"),
            (" \n", True, "the file has no id"),
            ("[1, {}]", True, "entries that are not ids"),
            ("[1", True, "cannot be parsed as JSON"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(
        self, text: str, named: bool, message: str, tmp_path: Path
    ) -> None:
        rows = self.ROWS() if named else [each | {"id": None} for each in self.ROWS()]
        (tmp_path / "ids").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            joined(source(tmp_path, rows), split={"validation_ids": str(tmp_path / "ids")})
        assert caught.value.key == "data.split.validation_ids"
        assert caught.value.fix


def test_a_document_is_never_in_both_splits_and_more_data_moves_few(tmp_path: Path) -> None:
    rows = [row(number, group=f"patient {number // 5}") for number in range(200)]
    made = source(tmp_path, rows)
    found = joined(made, split={"validation": 0.3})
    groups = {f"r{number}": number // 5 for number in range(200)}
    train, validation = ({groups[name] for name in ids(made, index)} for index in found.values())
    assert not train & validation
    assert len(train | validation) == 40
    fewer = source(tmp_path, rows[:100], "fewer")
    again = joined(fewer, split={"validation": 0.3})
    before = {groups[name] for name in ids(fewer, again["validation"])}
    assert len(validation) == 12
    assert len(before) == 6
    assert len(before & validation) >= 5
    other = joined(made, split={"validation": 0.3, "seed": 1})
    assert ids(made, other["validation"]) != ids(made, found["validation"])


def test_rows_of_one_group_cannot_be_split_by_group(tmp_path: Path) -> None:
    made = source(tmp_path, [row(number, group="one patient") for number in range(9)])
    with pytest.raises(InputError, match="9 training rows have 1"):
        joined(made, split={"validation": 0.3})


@pytest.mark.parametrize("by", ["group", "row"])
def test_a_split_of_nothing_is_left_to_who_knows_why_there_is_nothing(tmp_path: Path, by: str) -> None:
    """No grouping problem: reading failed, or a stage before took every row."""
    bad = source(tmp_path, [{"input": "q", "label": ""}] * 5)
    found = joined(bad, split={"validation": 0.3, "by": by})
    assert {split: (index.rows, index.rejected) for split, index in found.items()} == {"train": (0, 5)}
    assert found["train"].rejects == {"column 'label' is empty": 5}


def test_a_split_that_cannot_be_made_says_what_was_left_out_before(tmp_path: Path) -> None:
    same = {"input": "q", "label": "a"}
    made = source(tmp_path, [{"input": "q", "label": ""}] * 4 + [same] * 3)
    for data, key, says in (
        ({"split": {"validation": 0.3}}, "data.split.by", "1 training rows have 1"),
        ({"split": {"validation": 0.3, "by": "row"}}, "data.split.validation", "of 1 rows leaves one"),
        ({"subsample": 0.1}, "data.subsample", "of 1 rows leaves one"),
    ):
        with pytest.raises(InputError) as caught:
            joined(made, duplicates="drop", **data)
        assert caught.value.key == key
        assert says in caught.value.what
        assert caught.value.what.endswith("rows that were left out before: bad: 4, duplicate: 2")


def test_without_a_group_the_same_question_stays_together(tmp_path: Path) -> None:
    made = source(tmp_path, [row(number, input=f"Question  {number // 4}") for number in range(200)])
    found = joined(made, split={"validation": 0.3})
    asked = {f"r{number}": number // 4 for number in range(200)}
    train, validation = ({asked[name] for name in ids(made, index)} for index in found.values())
    assert not train & validation


def test_a_corpus_without_a_validation_split_is_cut_by_rows_with_seed_0(tmp_path: Path) -> None:
    made = source(tmp_path, [row(number) for number in range(50)])
    found = joined(made, hold_out=0.1, subsample=0.8)
    kept = subsample(50, 0.8, 3)
    wanted = sorted(sorted(kept.tolist())[number] for number in holdout(len(kept), 0.1, 0)[1])
    assert ids(made, found["validation"]) == [f"r{number}" for number in wanted]
    assert found["train"].rows == len(kept) - len(wanted)
    assert found["train"].dropped == {"not in the subsample": 10}


class TestLeakage:
    def leaky(self, folder: Path) -> tuple[FileSource, FileSource]:
        train = source(folder, [row(number) for number in range(10)] + [row(10, group="p1")])
        held = [row(20, input="QUESTION\t3 "), row(21, group="p1"), row(22)]
        return train, source(folder, held, "validation")

    def test_is_an_error_that_names_places_and_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            joined(*self.leaky(tmp_path))
        error = caught.value
        assert (error.key, error.value) == ("data.leakage", "error")
        assert "2 training rows" in error.what
        assert "train.jsonl row 4, train.jsonl row 11" in error.what
        assert "question" not in str(error).lower()

    def test_may_be_dropped_from_training_or_allowed(self, tmp_path: Path) -> None:
        train, held = self.leaky(tmp_path)
        found = joined(train, held, leakage="drop")
        assert ids(train, found["train"]) == [f"r{number}" for number in range(10) if number != 3]
        assert found["train"].dropped == {"in validation too": 2}
        assert found["validation"].rows == 3
        assert joined(train, held, leakage="allow")["train"].rows == 11

    def test_of_real_corpora(self, corpora: Path, tmp_path: Path) -> None:
        train, held = (
            FileSource(path=str(corpora / "medistill_d2n" / f"medqa_d2n_{name}.json"), format="json")
            for name in ("train", "valid")
        )
        with pytest.raises(InputError, match="2 training rows"):
            joined(train, held)


class TestDuplicates:
    def test_are_counted_or_dropped(self, tmp_path: Path) -> None:
        rows = [row(0), row(1), row(2, input="question 0", label=" Answer  0"), row(3, input="question 0")]
        made = source(tmp_path, rows)
        kept = joined(made)["train"]
        assert (kept.rows, kept.duplicates, kept.dropped) == (4, 1, {})
        less = joined(made, duplicates="drop")["train"]
        assert (ids(made, less), less.dropped) == (["r0", "r1", "r3"], {"duplicate": 1})

    def test_an_id_that_comes_twice_names_two_rows(self, tmp_path: Path) -> None:
        rows = [row(0), row(1, id="r0"), row(2), row(3, id="r0"), row(4, id=None), row(5, id=None)]
        made = source(tmp_path, rows)
        found = joined(made)["train"]
        assert ids(made, found) == ["r0", "r0#2", "r2", "r0#3", "train.jsonl:5", "train.jsonl:6"]
        assert found.repeated_ids == 2

    def test_real_corpus_with_repeated_ids(self, corpora: Path) -> None:
        made = FileSource(path=str(corpora / "medquad" / "medquad_2000.jsonl"), format="jsonl")
        columns = made.columns.model_copy(update={"input": "question", "label": "answer"})
        found = tiny.index(FileSource(path=made.path, format="jsonl", columns=columns, form="columns"), 512)
        assert (found.rows, found.repeated_ids) == (2000, 110)


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = source(tmp_path, [row(number % 7, input=f"q {number}") for number in range(30)])
    index = joined(made, split={"validation": 0.4})["train"]
    assert index.repeated_ids
    assert any(shard.kept for shard in index.shards)
    index.write(tmp_path / "index.json")
    assert SplitIndex.read(tmp_path / "index.json") == index
