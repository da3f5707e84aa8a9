"""Readers: every format gives the rows that were written, and gives the rest of them from any position on."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medray.data import readers
from medray.data.readers import Row, read_file
from medray.data.records import BadRowError
from medray.errors import InputError

BOM = b"\xef\xbb\xbf"


def made_rows(count: int) -> list[dict[str, Any]]:
    """Text columns with all that a format must quote: line ends, quotes, delimiters, brackets, 1 to 4 byte letters."""
    rng = random.Random(5)
    pieces = [
        "fever",
        "é",
        "σ",
        "日本",
        "🩺",
        '"',
        '""',
        ",",
        "\t",
        "\n",
        "\r\n",
        "{",
        "}",
        "[",
        "]",
        "\\",
        " ",
    ]
    return [
        {
            name: "x" + "".join(rng.choices(pieces, k=rng.randint(0, 12)))
            for name in ("id", "dialogue", "σημείωση")
        }
        for _ in range(count)
    ]


ROWS = made_rows(9)


def as_array(indent: int | None, ascii_only: bool = False) -> bytes:
    return json.dumps(ROWS, ensure_ascii=ascii_only, indent=indent).encode()


def as_objects(between: str, indent: int | None = None) -> bytes:
    return between.join(json.dumps(row, ensure_ascii=False, indent=indent) for row in ROWS).encode()


def as_table(delimiter: str, line_end: str) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(ROWS[0]), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue().encode()


FORMATS: dict[str, tuple[str, bytes]] = {
    "array": (".json", as_array(None)),
    "array, escaped": (".json", as_array(None, ascii_only=True)),
    "array, pretty, \\r\\n": (".json", as_array(2).replace(b"\n", b"\r\n")),
    "array, BOM": (".json", BOM + as_array(4)),
    "objects, pretty": (".json", as_objects("\n", indent=4) + b"\n"),
    "objects, pretty, BOM, \\r\\n": (".json", BOM + as_objects("\n\n", indent=1).replace(b"\n", b"\r\n")),
    "objects, touching": (".json", as_objects("")),
    "objects, a line each": (".json", as_objects("\n")),
    "JSONL": (".jsonl", as_objects("\n") + b"\n"),
    "JSONL, capital ending": (".JSONL", as_objects("\n") + b"\n"),
    "JSONL, no last line end": (".jsonl", as_objects("\n")),
    "JSONL, BOM, \\r\\n, blank lines": (
        ".jsonl",
        BOM + b"\r\n" + as_objects("\r\n \t\r\n\r\n") + b"\r\n\r\n",
    ),
    "CSV": (".csv", as_table(",", "\n")),
    "CSV, BOM, \\r\\n": (".csv", BOM + as_table(",", "\r\n")),
    "CSV, blank lines": (".csv", b"\n\n" + as_table(",", "\n\n") + b"\n"),
    "CSV, no last line end": (".csv", as_table(",", "\n").rstrip(b"\n")),
    "TSV": (".tsv", as_table("\t", "\n")),
    "TSV, \\r\\n": (".tsv", as_table("\t", "\r\n")),
}
each_format = pytest.mark.parametrize(("suffix", "data"), FORMATS.values(), ids=FORMATS.keys())


def write(folder: Path, suffix: str, data: bytes) -> Path:
    file = folder / f"rows{suffix}"
    file.write_bytes(data)
    return file


def read(folder: Path, suffix: str, data: bytes) -> list[Row]:
    return [row for _, row in read_file(write(folder, suffix, data))]


def reasons(rows: list[Row]) -> list[str]:
    return [str(row) for row in rows if isinstance(row, BadRowError)]


def failure(folder: Path, suffix: str, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, suffix, data)
    return str(caught.value)


@each_format
def test_a_format_gives_the_rows_that_were_written(suffix: str, data: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, suffix, data) == ROWS


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@each_format
def test_reading_goes_on_from_every_position(
    suffix: str, data: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    file = write(tmp_path, suffix, data)
    whole = list(read_file(file))
    assert [row for _, row in whole] == ROWS
    for place, (position, _) in enumerate(whole):
        assert list(read_file(file, position)) == whole[place:]


@each_format
def test_what_stands_before_a_position_is_not_read(suffix: str, data: bytes, tmp_path: Path) -> None:
    """But for the header of a table, all before the position may be unreadable."""
    file = write(tmp_path, suffix, data)
    whole = list(read_file(file))
    position = whole[5][0]
    header = whole[0][0] if suffix in (".csv", ".tsv") else 0
    file.write_bytes(data[:header] + b"\xff" * (position - header) + data[position:])
    assert list(read_file(file, position)) == whole[5:]


def test_a_position_is_the_byte_at_which_the_row_begins(tmp_path: Path) -> None:
    for suffix, data in FORMATS.values():
        for position, row in read_file(write(tmp_path, suffix, data)):
            assert isinstance(row, dict)
            rest = data[position:].decode()  # a position inside of a letter would not decode
            if suffix == ".json":
                assert json.JSONDecoder().raw_decode(rest)[0] == row
            elif suffix.lower() == ".jsonl":
                assert json.loads(rest.strip("\ufeff \t\r\n").splitlines()[0]) == row
            else:
                fields = next(
                    filter(
                        None,
                        csv.reader(
                            io.StringIO(rest, newline=""), delimiter="\t" if suffix == ".tsv" else ","
                        ),
                    )
                )
                assert fields == list(row.values())


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("data", [b"", b"\n", BOM, BOM + b"\r\n\r\n"])
def test_an_empty_file_has_no_rows(suffix: str, data: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, suffix, data) == []


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, ".csv", b"input,label\n") == []


class TestJsonl:
    def test_a_bad_line_is_a_row_and_reading_goes_on(self, tmp_path: Path) -> None:
        data = b'{"a": 1}\n{"a": \n\xff\n[1]\n"b"\n{"a": NaN\n' + b"[" * 100_000 + b'\n{"a": 2}\n'
        rows = read(tmp_path, ".jsonl", data)
        assert (rows[0], rows[-1]) == ({"a": 1}, {"a": 2})
        assert reasons(rows) == [
            "not valid JSON",
            "not UTF-8",
            "a JSON list, not an object",
            "a JSON str, not an object",
            "not valid JSON",
            "not valid JSON",
        ]

    def test_reading_goes_on_at_a_bad_line(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".jsonl", b'{"a": 1}\noops\n{"a": 2}\n')
        position = [place for place, _ in read_file(file)][1]
        again = [row for _, row in read_file(file, position)]
        assert (reasons(again), again[1:]) == (["not valid JSON"], [{"a": 2}])


class TestJson:
    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    @pytest.mark.parametrize(
        ("data", "byte"),
        [
            (b'[{"a": 1},\n {"a": oops}]', 12),
            (b'[{"a": 1},\n {"a": ', 12),
            ('[{"é": "é"}, {"a": "'.encode(), 15),
            (BOM + b'{"a": 1} {"a" 2}', 12),
            (b'{"a": 1}}', 8),
            (b"oops", 0),
        ],
    )
    def test_what_cannot_be_read_on_is_named_by_its_byte(
        self, data: bytes, byte: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "_CHUNK", chunk)
        message = failure(tmp_path, ".json", data)
        assert message == f"{tmp_path / 'rows.json'}: not valid JSON at byte {byte}"

    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    @pytest.mark.parametrize(
        "data", [b'{"a": 1}\xff', b'{"\xc3\xa9": "\xff"}', BOM + b'{"a": "\xf0\x9f"}', b'[{"a": 1}]\xc3']
    )
    def test_not_utf8_is_named_by_its_byte(
        self, data: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "_CHUNK", chunk)
        with pytest.raises(UnicodeDecodeError) as wanted:
            data.decode()
        message = failure(tmp_path, ".json", data)
        assert message.endswith(f"not UTF-8 at byte {wanted.value.start}")

    def test_the_rows_before_a_broken_one_are_given(self, tmp_path: Path) -> None:
        rows = read_file(write(tmp_path, ".json", b'[{"a": 1}, {"a": 2}, {"a"'))
        assert [next(rows), next(rows)] == [(1, {"a": 1}), (11, {"a": 2})]
        with pytest.raises(InputError):
            next(rows)

    def test_an_array_that_is_cut_between_two_rows_is_an_error(self, tmp_path: Path) -> None:
        assert "an array is not closed" in failure(tmp_path, ".json", b'[{"a": 1}, {"a": 2},\n')

    @pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
    def test_a_value_that_is_no_object_is_one_bad_row(
        self, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A number may stand across the end of a chunk: it must not become two rows, or row numbers would move."""
        monkeypatch.setattr(readers, "_CHUNK", chunk)
        file = write(tmp_path, ".json", b'[12345, -1.5e+10, "text", null, true, {"a": 1}] 678')
        found = list(read_file(file))
        assert [position for position, _ in found] == [1, 8, 18, 26, 32, 38, 48]
        kinds = ["int", "float", "str", "NoneType", "bool", "int"]
        assert reasons([row for _, row in found]) == [f"a {kind}, not an object" for kind in kinds]
        assert found[5][1] == {"a": 1}


class TestTables:
    def test_rows_of_another_width_are_bad_rows(self, tmp_path: Path) -> None:
        rows = read(tmp_path, ".csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n")
        assert (rows[0], rows[3]) == ({"a": "1", "b": "2"}, {"a": "7", "b": "8"})
        assert reasons(rows) == ["1 fields where the header has 2", "3 fields where the header has 2"]

    def test_text_after_a_closing_quote_is_a_bad_row(self, tmp_path: Path) -> None:
        rows = read(tmp_path, ".csv", b'a,b\n"x"y,2\n3,4\n')
        assert reasons(rows) == ["not valid CSV (',' expected after '\"')"]
        assert rows[1] == {"a": "3", "b": "4"}

    @pytest.mark.parametrize("row", [b'1,"2', b'"1,2'])
    def test_a_quote_that_is_never_closed_does_not_swallow_the_file(self, row: bytes, tmp_path: Path) -> None:
        message = failure(tmp_path, ".csv", b"a,b\n0,0\n" + row + b"\n3,4\n5,6\n")
        assert message.endswith("a quote in the row at byte 8 is never closed")

    def test_bad_rows_are_the_same_from_every_position(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".csv", b'a,b\n1,2\n"x"y,2\n"p\nq"r,5\n3,4\n7\n5,6\n')
        whole = [(position, str(row)) for position, row in read_file(file)]
        for place, (position, _) in enumerate(whole):
            assert [(at, str(row)) for at, row in read_file(file, position)] == whole[place:]

    @pytest.mark.parametrize("mark", [b"", BOM])
    @pytest.mark.parametrize("head", [b"a,b\n1,2\n", b""])
    def test_not_utf8_is_named_by_its_byte(self, head: bytes, mark: bytes, tmp_path: Path) -> None:
        data = mark + head + b"ab,\xff\n"
        message = failure(tmp_path, ".csv", data)
        assert message.endswith(f"not UTF-8 at byte {data.index(0xFF)}")

    @pytest.mark.parametrize("header", [b"a,b\r1,2\r", b'a,"b'])
    def test_a_header_that_cannot_be_read(self, header: bytes, tmp_path: Path) -> None:
        assert "its header is not valid CSV" in failure(tmp_path, ".csv", header)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".jsonl", b'{"SECRET": "SECRET"\n"SECRET"\n["SECRET"]\n{"SECRET": "\xff"}\n'),
        (".json", b'[{"a": "SECRET"}, "SECRET", SECRET]'),
        (".json", b'["SECRET", {"SECRET": "\xff"}]'),
        (".json", b'["SECRET", {"SECRET": "SECRET"}'),
        (".csv", b'SECRET,b\nSECRET\nSECRET,SECRET,SECRET\n"SECRET"SECRET,SECRET\nSECRET,"SECRET'),
        (".csv", b"a,b\nSECRET,SECRET\rSECRET,SECRET\nSECRET,\xff"),
        (".csv", b'SECRET,"SECRET" SECRET\nSECRET,SECRET'),
    ],
)
def test_no_message_holds_text_of_a_row(suffix: str, data: bytes, tmp_path: Path) -> None:
    said: list[str] = []
    try:
        for _, row in read_file(write(tmp_path, suffix, data)):
            said += reasons([row])
    except InputError as error:
        said.append(str(error))
    assert said
    assert not any("SECRET" in message for message in said)


@pytest.mark.parametrize(
    ("name", "count", "column"),
    [
        ("generic/generic_train.json", 3, "rationale"),
        ("generic/generic_test.json", 2, "rationale"),
        ("medistill_d2n/medqa_d2n_train.json", 1201, "rationale"),
        ("medistill_d2n/medqa_d2n_valid.json", 100, "rationale"),
        ("mts_dialog/MTS-Dialog-TrainingSet.csv", 1201, "dialogue"),
        ("mts_dialog/MTS-Dialog-ValidationSet.csv", 100, "dialogue"),
        ("medquad/medquad_2000.jsonl", 2000, "answer"),
        ("svamp_palm/svamp_train.json", 800, "label"),
    ],
)
def test_real_corpora_are_read_whole_and_from_the_middle(
    name: str, count: int, column: str, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_CHUNK", 10_000)
    found = list(read_file(corpora / name))
    assert len(found) == count
    assert all(isinstance(row, dict) and column in row for _, row in found)
    for place in {count - 1, count // 2, count // 3}:
        assert list(read_file(corpora / name, found[place][0])) == found[place:]


def test_medistill_is_what_the_json_module_reads(corpora: Path) -> None:
    file = corpora / "medistill_d2n" / "medqa_d2n_valid.json"
    load: Callable[[str], Any] = json.loads
    assert [row for _, row in read_file(file)] == load(file.read_text(encoding="utf-8"))
