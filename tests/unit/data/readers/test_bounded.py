"""Input that is too long or too large gives a bad row with its line, or an error, and never unbounded memory or time."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from medray.data.index.text_overlap import Benchmarks
from medray.data.readers import compressed, format_of, json_text, lines, ranges, read, xml_elements
from medray.data.readers import parquet as parquet_reader
from medray.data.records import BadRowError
from medray.errors import InputError

LIMIT = 200
LONG = "x" * 500


REAL = (
    (lines.LONGEST_LINE, lines.LONGEST_SKIPPED),
    (xml_elements.LONGEST_ELEMENT, parquet_reader.LONGEST_CELL),
    (compressed.MOST_RATIO, compressed.ALWAYS_UNPACKED),
    json_text.LONGEST_VALUE,
)


def test_the_real_limits() -> None:
    assert REAL == ((64 << 20, 1 << 30), (64 << 20, 64 << 20), (250, 64 << 20), 512 << 20)
    assert lines.TOO_LONG == "longer than 64 MB"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", LIMIT)
    monkeypatch.setattr(lines, "LONGEST_SKIPPED", 10_000)
    monkeypatch.setattr(lines, "_STEP", 64)
    monkeypatch.setattr(json_text, "_CHUNK", 64)
    monkeypatch.setattr(json_text, "LONGEST_VALUE", LIMIT)
    monkeypatch.setattr(xml_elements, "LONGEST_ELEMENT", LIMIT)
    monkeypatch.setattr(xml_elements, "_CHUNK", 64)
    monkeypatch.setattr(parquet_reader, "LONGEST_CELL", LIMIT)
    monkeypatch.setattr(compressed, "ALWAYS_UNPACKED", 5000)


def written(folder: Path, name: str, text: str | bytes) -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def told(path: str, format: str | None = None) -> list[tuple[int, str]]:
    """Return (line, reason or "row") for everything that is read."""
    return [
        (each.line, str(each.row) if isinstance(each.row, BadRowError) else "row")
        for each in read(path, format or format_of(path))
    ]


ROW = json.dumps({"input": "a", "label": "b"})


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz"])
def test_a_line_that_is_too_long_is_a_bad_row(ending: str, tmp_path: Path) -> None:
    data = f"{ROW}\n{json.dumps({'input': LONG})}\n{ROW}\n{LONG}".encode()
    pack: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    found = told(written(tmp_path, f"a.jsonl{ending}", pack[ending](data)))
    assert found == [(1, "row"), (2, lines.TOO_LONG), (3, "row"), (4, lines.TOO_LONG)]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n"])
@pytest.mark.parametrize(
    ("name", "format", "head", "row"),
    [
        ("a.jsonl", "jsonl", "", ROW),
        ("a.csv", "csv", "input,label\n", "a,b"),
        ("a.csv", "csv", "", "input,label\na,b"),
        ("a.tsv", "tsv", "input\tlabel\n", "a\tb"),
        ("a.tsv", "tsv", "", "input\tlabel\na\tb"),
        ("a.conll", "conll", "", "a O"),
        ("a.pubtator", "pubtator", "", "1|t|Aspirin\n1|a|x"),
    ],
)
def test_blank_lines_are_skipped_in_bulk(
    name: str, format: str, head: str, row: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines of a small compressed file take seconds, not minutes. Lines are still counted."""
    if " " in end and format != "jsonl":
        end = "\r\n"  # in this format, white space is a cell
    reads: list[int | None] = []
    monkeypatch.setattr(lines, "read_line", _counted(lines.read_line, reads))
    text = head + end * 3000 + f"{row}\n" + end * 3000 + f"{row.splitlines()[-1]}\n" + end
    found = told(written(tmp_path, name, text), format)
    last = text.rstrip().count("\n") + 1
    assert (found[-1][0], len(reads) < 20) == (last, True)


def _counted(read_line: Any, reads: list[int | None]) -> Any:
    def counted(stream: Any, name: str, number: int | None = None) -> Any:
        reads.append(number)
        return read_line(stream, name, number)

    return counted


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \n"])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_ranges_within_blank_lines(end: bytes, block: int, tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", (ROW.encode() + end * 50) * 3)
    found, line = [], 1
    for start, stop in ranges(path, "jsonl", block):
        reading = read(path, "jsonl", start, stop, line)
        found += [each.line for each in reading]
        line += reading.lines or 0
    assert (found, line) == ([1, 51, 101], 151)


@pytest.mark.parametrize("block", [7, 50, 300, 400])
def test_ranges_hold_every_row_once(block: int, tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", f"{ROW}\n{LONG}\n{ROW}\n{ROW}\n")
    found, line = [], 1
    for start, stop in ranges(path, "jsonl", block):
        reading = read(path, "jsonl", start, stop, line)
        found += [(each.position, each.line) for each in reading]
        line += reading.lines or 0
    assert found == [(each.position, each.line) for each in read(path, "jsonl")]
    assert [number for _, number in found] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "format", "text", "lines_read"),
    [
        ("a.csv", "csv", f"input,label\na,b\n{LONG},b\nc,d\n", [(2, "row"), (3, lines.TOO_LONG), (4, "row")]),
        ("a.tsv", "tsv", f"input\tlabel\n{LONG}\tb\nc\td\n", [(2, lines.TOO_LONG), (3, "row")]),
        ("a.conll", "conll", f"a O\n{LONG} O\n\nb O\n\n", [(1, lines.TOO_LONG), (4, "row")]),
        ("a.conll", "conll", "aaaa O\n" * 90 + "\nb O\n\n", [(1, lines.TOO_LONG), (92, "row")]),
        (
            "a.pubtator",
            "pubtator",
            f"1|t|Aspirin\n1|a|{LONG}\n\n2|t|Pain\n2|a|x\n\n",
            [(1, lines.TOO_LONG), (4, "row")],
        ),
    ],
)
def test_other_formats_are_bounded_too(
    name: str, format: str, text: str, lines_read: list[tuple[int, str]], tmp_path: Path
) -> None:
    assert told(written(tmp_path, name, text), format) == lines_read


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", b"\0" * 20_000, "line 1 has no end"),
        ("a.tsv", b"a\tb\n" + b"\0" * 20_000, "line 2 has no end"),
        ("a.csv", b'a,b\n"' + b"x\n" * 300, "a quote in line 2 is not closed within"),
        ("a.csv", b'a,b\n"' + b"x" * 300 + b"\ny,z\n", "a quote in line 2 is not closed within"),
        ("a.json", b"\0" * 20_000, "not valid JSON at byte 0"),
        ("a.json", b'[{"a": 1}, {"a": "' + b"x" * 20_000, "the JSON value at byte 11 has no end within"),
        ("a.json", b'[{"a": ' + b"[" * 150, "not valid JSON|nested too deeply|not whole within"),
        (
            "a.xml",
            b"<D><QAPair><Question>" + b"x" * 9000 + b"</Question></QAPair></D>",
            "no closing tag",
        ),
        ("a.xml", b"<D>" + b"<p>x</p>" * 900 + b"<QAPair/></D>", "no closing tag"),
        ("a.jsonl.gz", gzip.compress((ROW + "\n").encode() * 60_000), "more than 250 times its size"),
        ("a.jsonl.bz2", bz2.compress(b"\n" * 900_000), "more than 250 times its size"),
        ("a.jsonl.xz", lzma.compress(b"\n" * 900_000), "more than 250 times its size"),
    ],
)
def test_input_without_an_end_is_an_error(name: str, text: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        told(written(tmp_path, name, text))
    assert name in str(caught.value)
    assert caught.value.fix


def test_a_sparse_terabyte_ends(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.xml"):
        path = written(tmp_path, name, b"" if name in ("a.jsonl", "a.json") else b"a,b\n")
        os.truncate(path, 1 << 40)
        with pytest.raises(InputError):
            told(path)
        if name == "a.jsonl":
            with pytest.raises(InputError, match="line 1 has no end"):
                ranges(path, "jsonl")


def test_json_that_is_nested_too_deeply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "LONGEST_VALUE", 1 << 20)
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    with pytest.raises(InputError, match="nested too deeply at byte 1"):
        told(written(tmp_path, "a.json", f"[{deep}]"))
    nested: Any = "one two three four five six seven"
    for _ in range(5000):
        nested = [nested]
    assert Benchmarks.of([{"a": nested}]).hold("One two three four five six seven", "")


class TestParquet:
    def test_a_date_out_of_range_is_a_bad_row(self, tmp_path: Path) -> None:
        days = pa.array([0, 10**7, 1], pa.int32()).cast(pa.date32())
        parquet.write_table(pa.table({"note": ["a", "b", "c"], "day": days}), tmp_path / "a.parquet")
        found = list(read(str(tmp_path / "a.parquet"), "parquet"))
        assert [each.line for each in found] == [1, 2, 3]
        assert (
            str(found[1].row) == "a column whose name is not shown holds a value out of range, such as a date"
        )
        assert [each.row for each in (found[0], found[2])] == [
            {"note": "a", "day": date(1970, 1, 1).isoformat()},
            {"note": "c", "day": date(1970, 1, 2).isoformat()},
        ]

    def test_a_cell_that_is_too_long_is_a_bad_row(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"note": ["a", LONG]}), tmp_path / "a.parquet")
        assert told(str(tmp_path / "a.parquet"))[1] == (2, "a cell longer than 0 MB")

    def test_long_rows_are_read_few_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_reader, "_BATCH_BYTES", 5000)
        table = pa.table({"note": [os.urandom(500).hex() for _ in range(100)]})
        parquet.write_table(table, tmp_path / "a.parquet")
        assert parquet_reader._batch_rows(parquet.ParquetFile(tmp_path / "a.parquet").metadata) < 10
        parquet.write_table(pa.table({"note": ["a"] * 100}), tmp_path / "b.parquet")
        assert parquet_reader._batch_rows(parquet.ParquetFile(tmp_path / "b.parquet").metadata) == 512


def test_memory_does_not_grow_with_the_longest_line(tmp_path: Path) -> None:
    """A compressed file of 300 MB of zeros in 300 kB took 945 MB before memory was bounded."""
    path = written(tmp_path, "a.jsonl.gz", gzip.compress(b"\0" * (96 << 20), 1))
    program = """
import sys
from medray.data.readers import lines, read
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
lines.LONGEST_LINE = 4 << 20
before = peak()
(found,) = read(sys.argv[1], "jsonl")
assert str(found.row) == lines.TOO_LONG
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 48_000  # kB
