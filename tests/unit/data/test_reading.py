"""Files to rows: every format, from any position on; bad rows named, never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medray.config.data import ColumnsConfig
from medray.data import readers
from medray.data.index import index_source, join
from medray.data.readers import read_file
from medray.data.records import BadRowError, parse
from medray.data.sources import FileSource
from medray.errors import InputError

ROWS = [{"id": str(n), "input": f'Ünïcode {n}\n"quoted", text', "label": "é" * n + "x"} for n in range(9)]


def write(folder: Path, kind: str) -> Path:
    """ROWS in one of the formats."""
    file = folder / f"rows.{kind.split('-')[-1]}"
    if kind.endswith(("csv", "tsv")):
        mark = "," if kind.endswith("csv") else "\t"
        quoted = [mark.join('"' + row[name].replace('"', '""') + '"' for name in row) for row in ROWS]
        text = "\r\n".join([mark.join(ROWS[0]), *quoted, ""])
    elif kind.endswith("jsonl"):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
    elif kind.startswith("array"):
        text = json.dumps(ROWS, ensure_ascii=False, indent=2)
    else:
        text = "\r\n".join(json.dumps(row, ensure_ascii=False, indent=1) for row in ROWS)
    file.write_bytes(("\ufeff" if kind.startswith("bom") else "").encode() + text.encode())
    return file


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize(
    "kind", ["jsonl", "bom-jsonl", "array-json", "objects-json", "bom-json", "csv", "bom-csv", "tsv"]
)
def test_reading_goes_on_from_every_position(
    kind: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    file = write(tmp_path, kind)
    found = list(read_file(file))
    assert [row for _, row in found] == ROWS
    for place, (position, _) in enumerate(found):
        assert [row for _, row in read_file(file, position)] == ROWS[place:]


def test_a_bad_line_is_a_row_and_reading_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{"secret"\n\xff\xfe\n[1]\n{"a": 2}\n')
    rows = [row for _, row in read_file(file)]
    assert rows[0] == {"a": 1}
    assert rows[4] == {"a": 2}
    reasons = [str(row) for row in rows if isinstance(row, BadRowError)]
    assert reasons == ["not valid JSON", "not UTF-8", "a JSON list, not an object"]


def test_a_broken_array_names_the_byte_and_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"a": 1},\n {"secret": oops}]')
    with pytest.raises(InputError, match="not valid JSON at byte 12") as caught:
        list(read_file(file))
    assert "secret" not in str(caught.value)


def test_csv_rows_of_another_width(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,2\n3\n4,5,6\n7,8\n")
    rows = [row for _, row in read_file(file)]
    assert [str(row) for row in rows if isinstance(row, BadRowError)] == [
        "1 fields where the header has 2",
        "3 fields where the header has 2",
    ]
    assert rows[3] == {"a": "7", "b": "8"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": "x"}, "no column 'input'"),
        ({"input": "  ", "label": "x"}, "column 'input' is empty"),
        ({"input": "x", "label": None}, "column 'label' is empty"),
        ({"input": ["x"], "label": "x"}, "column 'input' holds a list, not text"),
        ({"input": "a\x00b", "label": "x"}, "column 'input' holds a NUL byte"),
        ({"input": "a", "label": "b", "entities": "no json"}, "column 'entities' is not a JSON list"),
    ],
)
def test_rows_that_become_no_record(row: dict[str, object], reason: str) -> None:
    with pytest.raises(BadRowError) as caught:
        parse(row, ColumnsConfig(), source="s", number=3)
    assert str(caught.value) == reason


def test_a_record_without_an_id_is_named_by_its_place() -> None:
    record = parse({"input": " a\r\nb ", "label": 7}, ColumnsConfig(), source="file.csv", number=3)
    assert (record.id, record.group, record.input, record.label) == ("file.csv:3", "file.csv:3", "a\nb", "7")


def test_shards_of_the_index_cover_every_good_row_once(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"input": f"i{n}", "label": f"l{n}"}) if n % 4 else "bad" for n in range(30)]
    file.write_text("\n".join(lines))
    index = join([index_source(FileSource(str(file)), ColumnsConfig(), 7)])
    assert [shard.raw_rows for shard in index.shards] == [7, 7, 7, 7, 2]
    assert [shard.first for shard in index.shards] == [0, 7, 14, 21, 28]
    assert (index.rows, index.rejected, index.rejects) == (22, 8, {"not valid JSON": 8})


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match=r"(?s)data.columns.input.*answer, question"):
        index_source(FileSource(str(file)), ColumnsConfig(), 7)


def test_the_real_corpora_are_read_whole(corpora: Path) -> None:
    counts = {
        name: sum(1 for _ in read_file(corpora / name))
        for name in (
            "medistill_d2n/medqa_d2n_train.json",
            "medistill_d2n/medqa_d2n_valid.json",
            "generic/generic_train.json",
            "generic/generic_test.json",
            "mts_dialog/MTS-Dialog-TrainingSet.csv",
            "medquad/medquad_2000.jsonl",
        )
    }
    assert list(counts.values()) == [1201, 100, 3, 2, 1201, 2000]
    source = FileSource(str(corpora / "medistill_d2n/medqa_d2n_train.json"))
    index = join([index_source(source, ColumnsConfig(label="output"), 500)])
    assert (index.rows, index.rejected, index.with_rationale) == (1201, 0, 1173)
