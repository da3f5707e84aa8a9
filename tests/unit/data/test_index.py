"""The index: every good row in exactly one shard, every bad one counted with its reason, before any token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config.data import ColumnsConfig
from medray.data.index import SourceIndex, SplitIndex, index_source, join, records
from medray.data.records import BadRowError
from medray.data.sources import FileSource, Source
from medray.errors import InputError


def jsonl(file: Path, rows: list[Any]) -> FileSource:
    """A source of rows; a str is a line as it stands."""
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return FileSource(str(file))


def row(number: int) -> dict[str, Any]:
    return {"id": f"r{number}", "input": f"é{number}", "label": "x"}


def mixed(count: int) -> list[Any]:
    """Every third row is bad, in turn in three ways; rows 10 to 19 are all bad."""
    bad: list[Any] = ["oops", {"input": "a"}, {"input": "a", "label": ""}]
    return [
        bad[number // 3 % 3] if number % 3 == 0 or 10 <= number < 20 else row(number)
        for number in range(count)
    ]


def read_shard(source: Source, shard: Any, columns: ColumnsConfig) -> list[str]:
    """Ids of a shard's good rows, read from its position alone."""
    rows = records(source, columns, shard.position, shard.first)
    found = [record for (_, _, record), _ in zip(rows, range(shard.raw_rows), strict=False)]
    return [record.id for record in found if not isinstance(record, BadRowError)]


@pytest.mark.parametrize("shard_rows", [1, 4, 7, 10, 30, 100])
def test_the_shards_hold_every_good_row_once_and_in_order(shard_rows: int, tmp_path: Path) -> None:
    made = mixed(43)
    source, columns = jsonl(tmp_path / "a.jsonl", made), ColumnsConfig()
    index = join([index_source(source, columns, shard_rows)])
    wanted = [item["id"] for item in made if isinstance(item, dict) and item.get("label")]
    assert [name for shard in index.shards for name in read_shard(source, shard, columns)] == wanted
    assert [shard.rows for shard in index.shards] == [
        len(read_shard(source, shard, columns)) for shard in index.shards
    ]
    assert [shard.index for shard in index.shards] == list(range(len(index.shards)))
    assert all(0 < shard.rows <= shard.raw_rows <= shard_rows for shard in index.shards)
    assert (index.rows, index.rejected) == (len(wanted), 43 - len(wanted))


def test_rejects_are_named_by_file_and_row_and_counted_by_reason(tmp_path: Path) -> None:
    made = mixed(43)
    part = index_source(jsonl(tmp_path / "a.jsonl", made), ColumnsConfig(), 7)
    wanted = {
        number: "not valid JSON"
        if item == "oops"
        else f"{'no column' if 'label' not in item else 'column'} 'label'"
        for number, item in enumerate(made)
        if not isinstance(item, dict) or not item.get("label")
    }
    assert [(reject["source"], reject["row"]) for reject in part.rejects] == [
        ("a.jsonl", number) for number in wanted
    ]
    assert all(reject["reason"].startswith(wanted[reject["row"]]) for reject in part.rejects)
    reasons = join([part]).rejects
    assert set(reasons) == {"not valid JSON", "no column 'label'", "column 'label' is empty"}
    assert sum(reasons.values()) == len(wanted)


def test_a_row_without_an_id_is_named_alike_from_the_start_and_from_its_shard(tmp_path: Path) -> None:
    made = [item if number % 4 else "oops" for number, item in enumerate([{"input": "a", "label": "b"}] * 23)]
    source, columns = jsonl(tmp_path / "a.jsonl", made), ColumnsConfig()
    index = join([index_source(source, columns, 5)])
    names = [name for shard in index.shards for name in read_shard(source, shard, columns)]
    assert names == [f"a.jsonl:{number}" for number in range(23) if number % 4]


def test_an_array_with_values_that_are_no_objects(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([row(0), 12, row(1), None, ["x"], row(2)]))
    index = join([index_source(FileSource(str(file)), ColumnsConfig(), 2)])
    assert (index.rows, index.rejects) == (
        3,
        {"a int, not an object": 1, "a NoneType, not an object": 1, "a str, not an object": 1},
    )


def test_sources_are_joined_in_their_order(tmp_path: Path) -> None:
    counts = (5, 3)
    parts = [
        index_source(
            jsonl(tmp_path / f"{n}.jsonl", [row(i) for i in range(count)] + ["oops"]), ColumnsConfig(), 2
        )
        for n, count in enumerate(counts)
    ]
    index = join(parts)
    assert [(shard.index, shard.source, shard.rows) for shard in index.shards] == [
        (0, 0, 2), (1, 0, 2), (2, 0, 1), (3, 1, 2), (4, 1, 1),
    ]  # fmt: skip
    assert index.rejects == {"not valid JSON": 2}


def test_rationales_and_entities_are_counted(tmp_path: Path) -> None:
    made = [
        row(0) | {"rationale": "r", "entities": []},
        row(1) | {"rationale": " "},
        row(2) | {"entities": [{"text": "fever"}]},
        "oops",
    ]
    index = join([index_source(jsonl(tmp_path / "a.jsonl", made), ColumnsConfig(), 2)])
    assert (index.rows, index.with_rationale, index.with_entities) == (3, 1, 2)


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = join([index_source(jsonl(tmp_path / "a.jsonl", mixed(43)), ColumnsConfig(), 7)])
    index.write(tmp_path / "index.json")
    assert SplitIndex.read(tmp_path / "index.json") == index
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "index.json"]


def test_a_source_without_rows(tmp_path: Path) -> None:
    assert index_source(jsonl(tmp_path / "a.jsonl", []), ColumnsConfig(), 7) == SourceIndex([], [], 0, 0)


class TestColumns:
    @pytest.mark.parametrize("name", ["input", "label", "rationale", "id", "group", "entities"])
    def test_a_name_that_no_row_has_is_answered_with_those_that_there_are(
        self, name: str, tmp_path: Path
    ) -> None:
        source = jsonl(tmp_path / "a.jsonl", [row(0), row(1) | {"extra": 1}])
        with pytest.raises(InputError) as caught:
            index_source(source, ColumnsConfig(**{name: "nope"}), 7)
        error = caught.value
        assert (error.key, error.value) == (f"data.columns.{name}", "nope")
        assert error.mend == "it has extra, id, input, label"
        assert "a.jsonl" in str(error)

    def test_a_default_that_no_row_has_is_absent_but_for_input_and_label(self, tmp_path: Path) -> None:
        assert join([index_source(jsonl(tmp_path / "a.jsonl", [row(0)]), ColumnsConfig(), 7)]).rows == 1
        with pytest.raises(InputError, match=r"data\.columns\.label"):
            index_source(jsonl(tmp_path / "a.jsonl", [{"input": "a"}]), ColumnsConfig(), 7)

    def test_it_is_enough_that_a_later_row_has_it(self, tmp_path: Path) -> None:
        """Only some records have a rationale; and one bad first row is a reject like any other."""
        made = [{"input": "a"}, row(1), row(2) | {"why": "r"}]
        index = join([index_source(jsonl(tmp_path / "a.jsonl", made), ColumnsConfig(rationale="why"), 7)])
        assert (index.rows, index.with_rationale, index.rejects) == (2, 1, {"no column 'label'": 1})

    def test_a_file_without_a_header_does_not_show_its_first_row(self, tmp_path: Path) -> None:
        file = tmp_path / "a.csv"
        file.write_text(f"1,{'Doctor: SECRET. ' * 9},a note\n2,b,c\n")
        with pytest.raises(InputError) as caught:
            index_source(FileSource(str(file)), ColumnsConfig(), 7)
        assert "SECRET" not in str(caught.value)
        assert caught.value.mend == "it has 1, a note, 1 more that are not shown"

    def test_an_object_keyed_by_id_does_not_flood_the_message(self, corpora: Path) -> None:
        with pytest.raises(InputError) as caught:
            index_source(FileSource(str(corpora / "pubmedqa" / "pqal_train.json")), ColumnsConfig(), 7)
        assert len(str(caught.value)) < 500
        assert "480 more" in str(caught.value)


@pytest.mark.parametrize(("name", "rows", "reasoned"), [("train", 1201, 1173), ("valid", 100, 100)])
def test_medistill_keeps_the_rows_without_a_rationale(
    name: str, rows: int, reasoned: int, corpora: Path
) -> None:
    source = FileSource(str(corpora / "medistill_d2n" / f"medqa_d2n_{name}.json"))
    columns = ColumnsConfig(label="output")
    index = join([index_source(source, columns, 128)])
    assert (index.rows, index.rejected, index.with_rationale) == (rows, 0, reasoned)
    assert [name for shard in index.shards for name in read_shard(source, shard, columns)] == [
        f"{source.name}:{number}" for number in range(rows)
    ]


def test_mts_dialog_has_no_bad_row(corpora: Path) -> None:
    source = FileSource(str(corpora / "mts_dialog" / "MTS-Dialog-TrainingSet.csv"))
    columns = ColumnsConfig(input="dialogue", label="section_text", id="ID", group=None)
    index = join([index_source(source, columns, 500)])
    assert (index.rows, index.rejected, len(index.shards)) == (1201, 0, 3)
