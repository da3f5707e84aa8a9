"""Parallel readers of ranges see every row once, with its line, wherever the boundaries are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from medray.data.readers import Found, ranges, read
from medray.data.records import BadRowError

LINES = [
    b"\xef\xbb\xbf",
    b'{"a": 1}',
    b"",
    b'{"a": "\xc3\xa9"}\r',
    b"oops",
    b"  ",
    b'{"a": "' + b"long " * 12 + b'"}',
    b'{"a": 2}',
    b"",
]


def plain(found: Found) -> tuple[int, int, str]:
    return (
        found.position,
        found.line,
        json.dumps(found.row) if isinstance(found.row, dict) else str(found.row),
    )


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("block", range(1, 160))
def test_ranges_hold_every_row_once_and_lines_add_up(block: int, end: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(LINES) + end)
    whole = [plain(found) for found in read(str(file), "jsonl")]
    assert [line for _, line, _ in whole] == [2, 4, 5, 7, 8]
    parts, line = [], 1
    for start, stop in ranges(str(file), "jsonl", block):
        reading = read(str(file), "jsonl", start, stop, line)
        parts += [plain(found) for found in reading]
        assert reading.lines is not None
        line += reading.lines
    assert parts == whole


def test_a_range_is_about_as_large_as_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n' * 1000)
    assert ranges(str(file), "jsonl", 3000) == [(0, 3000), (3000, 6000), (6000, None)]
    assert ranges(str(file), "jsonl") == [(0, None)]


@pytest.mark.parametrize(("name", "format"), [("a.jsonl.gz", "jsonl"), ("a.csv", "csv"), ("a.json", "json")])
def test_a_file_that_cannot_be_split_is_one_range(name: str, format: str) -> None:
    assert ranges(name, format, 1) == [(0, None)]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_stop_ends_before_the_row_that_begins_there(format: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{format}"
    file.write_bytes(b'[{"a": "1"}, {"a": "2"}, {"a": "3"}]' if format == "json" else b"a\n1\n2\n3\n")
    whole = list(read(str(file), format))
    _, second, third = whole
    assert list(read(str(file), format, second.position, third.position, second.line)) == [second]


class TestParquet:
    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        path = str(tmp_path / "rows.parquet")
        table = pa.table({"id": [f"r{number}" for number in range(25)], "n": list(range(25))})
        parquet.write_table(table, path, row_group_size=4)
        return path

    def test_ranges_are_row_groups(self, file: str) -> None:
        assert ranges(file, "parquet", 1) == [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24), (24, 25)]
        assert ranges(file, "parquet") == [(0, 25)]

    @pytest.mark.parametrize("block", [1, 200, 400])
    def test_ranges_hold_every_row_once(self, file: str, block: int) -> None:
        found = [
            each
            for start, stop in ranges(file, "parquet", block)
            for each in read(file, "parquet", start, stop)
        ]
        assert found == [Found(n, n + 1, {"id": f"r{n}", "n": n}) for n in range(25)]

    @pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (7, 7), (6, None), (24, 99), (25, None)])
    def test_any_rows_can_be_read(self, file: str, start: int, stop: int | None) -> None:
        wanted = list(range(25))[start:stop]
        assert [found.position for found in read(file, "parquet", start, stop)] == wanted

    @pytest.mark.parametrize("start", [0, 511, 512, 1700, 2999])
    def test_any_row_of_one_large_group(self, start: int, tmp_path: Path) -> None:
        path = str(tmp_path / "rows.parquet")
        parquet.write_table(pa.table({"n": list(range(3000))}), path)
        found = list(read(path, "parquet", start))
        assert [(each.position, each.row) for each in found] == [(n, {"n": n}) for n in range(start, 3000)]


def test_a_bad_row_is_found_once_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"oops\n" * 10)
    found = [
        each
        for start, stop in ranges(str(file), "jsonl", 7)
        for each in read(str(file), "jsonl", start, stop)
    ]
    assert len(found) == 10
    assert all(isinstance(each.row, BadRowError) for each in found)
