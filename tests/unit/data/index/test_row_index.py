"""The index: every good row in exactly one shard, every bad one counted with its reason, before any token."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from margin_spec import margin_spec
from pyarrow import parquet

from medray.config import read
from medray.config.columns import ColumnsConfig
from medray.config.data import DataConfig
from medray.config.method import MethodConfig
from medray.data.index.membership import SplitIndex, join
from medray.data.index.row_index import RangeIndex, index_range, records
from medray.data.index.sources import FileSource, sources
from medray.data.index.text_overlap import Benchmarks
from medray.data.readers import format_of
from medray.data.records import Distill
from medray.data.shards.shard_task import encode_shard, shard_records
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError, RunFailedError

CONFIGS = Path(__file__).parents[4] / "configs"


def jsonl(file: Path, rows: list[Any]) -> FileSource:
    """Return a source of rows; a str is written unchanged as a line."""
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return FileSource(path=str(file), format="jsonl")


def of(file: Path, **columns: str | None) -> FileSource:
    return FileSource(path=str(file), format=format_of(str(file)), columns=ColumnsConfig(**columns))  # type: ignore[arg-type]


def row(number: int) -> dict[str, Any]:
    return {"id": f"r{number}", "input": f"é{number}", "label": "x"}


def mixed(count: int) -> list[Any]:
    """Every third row is bad, in turn in three ways; rows 10 to 19 are all bad."""
    bad: list[Any] = ["oops", {"input": "a"}, {"input": "a", "label": ""}]
    return [
        bad[number // 3 % 3] if number % 3 == 0 or 10 <= number < 20 else row(number)
        for number in range(count)
    ]


def ids(source: FileSource, index: SplitIndex) -> list[str]:
    """Ids of all rows, each shard read from its position alone."""
    return [record.origin.id for shard in index.shards for record in shard_records(source, shard)]


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 4, 5])
def test_a_shard_never_begins_inside_of_a_bad_row_of_several_lines(shard_rows: int, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = [f"r{number},q,a\n" for number in range(6)]
    file.write_text("".join(["id,input,label\n", *rows[:3], 'bad,"x\ny\nz"w,a\n', *rows[3:]]))
    index = tiny.index(of(file), shard_rows)
    assert ids(of(file), index) == [f"r{number}" for number in range(6)]
    assert sum(index.rejects.values()) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:9],
        lambda lines: lines[:8],
        lambda lines: [*lines[:9], "oops\n"],
        lambda lines: [*lines[:9], '{"input": "a", "label": ""}\n'],
        lambda lines: [],
    ],
    ids=["a row less", "no row left", "no JSON", "a bad row", "empty"],
)
def test_a_source_that_changed_after_it_was_indexed_is_no_shorter_shard(change: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [row(number) for number in range(10)])
    index, lines = tiny.index(source, 4), (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    last = index.shards[-1]
    assert (len(index.shards), last.rows) == (3, 2)
    assert len(shard_records(source, last)) == 2
    (tmp_path / "a.jsonl").write_text("".join(change(lines)))
    token_set = TokenSet(
        folder=str(tmp_path / "tokens"),
        tokenizer=str(tiny.tokenizer(tmp_path)),
        spec=tiny.encode_spec(),
        index=index,
    )
    with pytest.raises(
        RunFailedError,
        match=r"a\.jsonl changed after it was indexed: shard 2 now has [01] rows instead of 2\.",
    ):
        encode_shard(token_set, last, source, truth=False)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("shard_rows", [1, 4, 7, 10, 30, 100])
def test_the_shards_hold_every_good_row_once_and_in_order(shard_rows: int, tmp_path: Path) -> None:
    made = mixed(43)
    source = jsonl(tmp_path / "a.jsonl", made)
    index = tiny.index(source, shard_rows)
    wanted = [item["id"] for item in made if isinstance(item, dict) and item.get("label")]
    assert ids(source, index) == wanted
    assert [shard.rows for shard in index.shards] == [int(shard.mask().sum()) for shard in index.shards]
    assert [shard.index for shard in index.shards] == list(range(len(index.shards)))
    assert all(0 < shard.rows <= shard.raw_rows <= shard_rows for shard in index.shards)
    assert (index.rows, index.rejected) == (len(wanted), 43 - len(wanted))


def test_rejects_are_named_by_file_and_line_and_counted_by_reason(tmp_path: Path) -> None:
    made = mixed(43)
    source = jsonl(tmp_path / "a.jsonl", made)
    [whole] = tiny.parts([source], 7)[0].ranges
    wanted = {
        number: "not valid JSON"
        if item == "oops"
        else f"{'no column' if 'label' not in item else 'column'} 'label'"
        for number, item in enumerate(made, 1)
        if not isinstance(item, dict) or not item.get("label")
    }
    assert [(reject["file"], reject["line"]) for reject in whole.rejects] == [
        ("a.jsonl", number) for number in wanted
    ]
    assert all(reject["reason"].startswith(wanted[reject["line"]]) for reject in whole.rejects)
    reasons = tiny.index(source, 7).rejects
    assert set(reasons) == {"not valid JSON", "no column 'label'", "column 'label' is empty"}
    assert sum(reasons.values()) == len(wanted)


def test_a_row_without_an_id_is_named_alike_from_the_start_and_from_its_shard(tmp_path: Path) -> None:
    made = [item if number % 4 else "oops" for number, item in enumerate([{"input": "a", "label": "b"}] * 23)]
    source = jsonl(tmp_path / "a.jsonl", made)
    assert ids(source, tiny.index(source, 5)) == [
        f"a.jsonl:{number + 1}" for number in range(23) if number % 4
    ]


def test_an_array_with_values_that_are_no_objects(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([row(0), 12, row(1), None, ["x"], row(2)]))
    index = tiny.index(of(file), 2)
    assert (index.rows, index.rejects) == (
        3,
        {
            "the row is a int, not an object": 1,
            "the row is a NoneType, not an object": 1,
            "the row is a str, not an object": 1,
        },
    )


def test_sources_are_joined_in_their_order(tmp_path: Path) -> None:
    counts = (5, 3)
    made = [
        jsonl(tmp_path / f"{n}.jsonl", [row(10 * n + i) for i in range(count)] + ["oops"])
        for n, count in enumerate(counts)
    ]
    index = join(tiny.parts(made, 2), [], DataConfig(), seed=0)["train"]
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
    index = tiny.index(jsonl(tmp_path / "a.jsonl", made), 2)
    assert (index.rows, index.with_rationale, index.with_entities) == (3, 1, 2)


def test_a_method_with_several_answers_per_prompt_compares_prompts_with_benchmarks(tmp_path: Path) -> None:
    exam = " ".join(f"word{number}" for number in range(13))
    other = "What helps?"
    rows = [
        {"prompt": asked, "chosen": chosen, "rejected": rejected}
        for asked, chosen, rejected in ((f"Q: {exam}", "a", "b"), (other, exam, "b"), (other, "a", exam))
    ]
    benchmarks = Benchmarks.of([{"question": exam}])
    pairs = index_range(
        jsonl(tmp_path / "pairs.jsonl", rows), 0, None, 8, benchmarks, method=margin_spec(MethodConfig())
    )
    assert pairs.contaminated.tolist() == [True, False, False]
    plain = [{"input": each["prompt"], "label": each["chosen"]} for each in rows]
    trained = index_range(jsonl(tmp_path / "rows.jsonl", plain), 0, None, 8, benchmarks)
    assert trained.contaminated.tolist() == [True, True, False]


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = tiny.index(jsonl(tmp_path / "a.jsonl", mixed(43)), 7)
    index.write(tmp_path / "index.json")
    assert SplitIndex.read(tmp_path / "index.json") == index
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "index.json"]


def test_a_part_of_an_index_travels_without_pickle(tmp_path: Path) -> None:
    part = index_range(jsonl(tmp_path / "a.jsonl", mixed(43)), 0, None, 7)
    back = RangeIndex.from_bytes(part.to_bytes())
    assert (back.chunks, back.rejects, back.lines, back.columns_seen) == (
        part.chunks,
        part.rejects,
        43,
        ["id", "input", "label"],
    )
    for name in ("good", "ids", "inputs", "pairs", "groups", "contaminated"):
        np.testing.assert_array_equal(getattr(back, name), getattr(part, name))


def test_a_source_without_rows(tmp_path: Path) -> None:
    empty = index_range(jsonl(tmp_path / "a.jsonl", []), 0, None, 7)
    assert (empty.chunks, empty.rejects, len(empty.good)) == ([], [], 0)


class TestColumns:
    @pytest.mark.parametrize(
        ("column", "missing"),
        [("Input ", "Input "), ("{id}: {inputs.text}", "inputs.text"), (["label", "inptu"], "inptu")],
    )
    def test_the_nearest_column_is_named(self, column: object, missing: str, tmp_path: Path) -> None:
        source = jsonl(tmp_path / "a.jsonl", [row(0)])
        with pytest.raises(InputError) as caught:
            tiny.index(replace(source, columns=ColumnsConfig.model_validate({"input": column})), 7)
        assert caught.value.value == missing
        assert str(caught.value.fix).startswith("did you mean 'input'? use one of its columns")

    @pytest.mark.parametrize("name", ["input", "label", "rationale", "id", "group", "entities"])
    def test_a_name_that_no_row_has_is_refused_with_the_existing_names(
        self, name: str, tmp_path: Path
    ) -> None:
        source = jsonl(tmp_path / "a.jsonl", [row(0), row(1) | {"extra": 1}])
        with pytest.raises(InputError) as caught:
            tiny.index(replace(source, columns=ColumnsConfig.model_validate({name: "nope"})), 7)
        error = caught.value
        assert (error.key, error.value) == (f"data.columns.{name}", "nope")
        assert error.fix == "use one of its columns: id, input, label, 1 more that are not shown"
        assert "a.jsonl" in str(error)

    def test_numbered_columns_of_parquet_have_their_own_fix(self, tmp_path: Path) -> None:
        path = str(tmp_path / "a.parquet")
        parquet.write_table(pa.table({"0": ["a"], "1": ["b"]}), path)
        with pytest.raises(InputError, match="the names of its 2 columns are not shown") as caught:
            tiny.index(FileSource(path=path, format="parquet"), 7)
        assert caught.value.fix == "use one of its columns here, or write the table again with named columns"

    def test_a_default_that_no_row_has_is_absent_but_for_input_and_label(self, tmp_path: Path) -> None:
        assert tiny.index(jsonl(tmp_path / "a.jsonl", [row(0)]), 7).rows == 1
        with pytest.raises(InputError, match=r"data\.columns\.label"):
            tiny.index(jsonl(tmp_path / "a.jsonl", [{"input": "a"}]), 7)

    def test_a_column_may_appear_in_a_later_row(self, tmp_path: Path) -> None:
        """Some records have no rationale, and a bad first row is a reject like any other."""
        made = [{"input": "a"}, row(1), row(2) | {"why": "r"}]
        source = replace(jsonl(tmp_path / "a.jsonl", made), columns=ColumnsConfig(rationale="why"))
        index = tiny.index(source, 7)
        assert (index.rows, index.with_rationale, index.rejects) == (2, 1, {"no column 'label'": 1})

    def test_a_file_without_a_header_does_not_show_its_first_row(self, tmp_path: Path) -> None:
        file = tmp_path / "a.csv"
        file.write_text(f"1,{'Doctor: SECRET. ' * 9},a note\n2,b,c\n")
        with pytest.raises(InputError) as caught:
            tiny.index(of(file), 7)
        assert "SECRET" not in str(caught.value)
        assert "a note" not in str(caught.value)
        assert "its first line does not seem to be a header" in caught.value.what


@pytest.mark.parametrize(("name", "rows", "reasoned"), [("train", 1201, 1173), ("valid", 100, 100)])
def test_medistill_keeps_the_rows_without_a_rationale(
    name: str, rows: int, reasoned: int, corpora: Path
) -> None:
    source = of(corpora / "medistill_d2n" / f"medqa_d2n_{name}.json")
    index = tiny.index(source, 128)
    assert (index.rows, index.rejected, index.with_rationale) == (rows, 0, reasoned)
    assert ids(source, index) == [f"{source.name}:{number}" for number in range(1, rows + 1)]


def test_mts_dialog_has_no_bad_row(corpora: Path) -> None:
    file = corpora / "mts_dialog" / "MTS-Dialog-TrainingSet.csv"
    index = tiny.index(of(file, input="dialogue", label="section_text", id="ID", group=None), 500)
    assert (index.rows, index.rejected, len(index.shards)) == (1201, 0, 3)


@pytest.mark.parametrize(
    ("recipe", "file", "rows", "labels"),
    [
        ("pubmedqa", "pqal_train.json", 500, {"yes": 276, "no": 169, "maybe": 55}),
        ("medmcqa", "dev_odd.jsonl", 2091, {"A": 672, "B": 533, "C": 458, "D": 428}),
    ],
)
def test_recipes_compose_the_rows_of_published_files(
    recipe: str, file: str, rows: int, labels: dict[str, int], corpora: Path
) -> None:
    config = read(CONFIGS / f"{recipe}.yaml", [f"data.root={corpora / recipe}", f"data.train={file}"])
    (source,) = sources(config, "train")
    made = [record for *_, record in records(source)]
    assert len(made) == rows
    assert Counter(record.label for record in made if isinstance(record, Distill)) == labels
