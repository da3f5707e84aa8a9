"""JSONL, JSON, CSV and TSV give the rows that were written, and from any position the rest of them."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medray.data import readers
from medray.data.readers import Found, Row, format_of, json_text, tables
from medray.data.records import BadRowError
from medray.errors import InputError

BOM = b"\xef\xbb\xbf"


def made_rows(count: int) -> list[dict[str, Any]]:
    """Return rows with all that a format must quote: line ends, quotes, delimiters, brackets, 1 to 4 byte letters."""
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


def read_file(file: Path, start: int = 0, line: int = 1) -> Iterator[Found]:
    quoted = file.name.endswith("quoted.tsv")
    return readers.read(str(file), "tsv_quoted" if quoted else format_of(str(file)), start, line=line)


def as_array(indent: int | None, ascii_only: bool = False) -> bytes:
    return json.dumps(ROWS, ensure_ascii=ascii_only, indent=indent).encode()


def as_objects(between: str, indent: int | None = None) -> bytes:
    return between.join(json.dumps(row, ensure_ascii=False, indent=indent) for row in ROWS).encode()


def by_id(indent: int | None) -> bytes:
    """Return an object of rows: two rows have an id, the ids of the others are their keys."""
    whole = {row["id"] if number > 1 else f"key {number}": row for number, row in enumerate(ROWS)}
    assert len(whole) == len(ROWS)
    for key, row in list(whole.items())[2:]:
        whole[key] = {name: value for name, value in row.items() if name != "id"}
    return json.dumps(whole, ensure_ascii=False, indent=indent).encode()


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
    "objects by id": (".json", by_id(None)),
    "objects by id, pretty, BOM, \\r\\n": (".json", BOM + by_id(2).replace(b"\n", b"\r\n") + b"\r\n"),
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
    "TSV, quoted": ("quoted.tsv", as_table("\t", "\n")),
    "TSV, quoted, \\r\\n": ("quoted.tsv", as_table("\t", "\r\n")),
}
each_format = pytest.mark.parametrize(("suffix", "data"), FORMATS.values(), ids=FORMATS.keys())


def write(folder: Path, suffix: str, data: bytes) -> Path:
    file = folder / f"rows{suffix}"
    file.write_bytes(data)
    return file


def read(folder: Path, suffix: str, data: bytes) -> list[Row]:
    return [found.row for found in read_file(write(folder, suffix, data))]


def reasons(rows: list[Row]) -> list[str]:
    return [str(row) for row in rows if isinstance(row, BadRowError)]


def failure(folder: Path, suffix: str, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, suffix, data)
    message, _, fix = str(caught.value).partition("\n  Fix: ")
    assert fix
    return message


@each_format
def test_a_format_gives_the_rows_that_were_written(suffix: str, data: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, suffix, data) == ROWS


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@each_format
def test_reading_resumes_from_every_position(
    suffix: str, data: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "_CHUNK", chunk)
    file = write(tmp_path, suffix, data)
    whole = list(read_file(file))
    assert [found.row for found in whole] == ROWS
    for place, found in enumerate(whole):
        assert list(read_file(file, found.position, found.line)) == whole[place:]


@each_format
def test_bytes_before_a_position_are_not_read(suffix: str, data: bytes, tmp_path: Path) -> None:
    """Everything before the position may be unreadable, except the header of a table."""
    file = write(tmp_path, suffix, data)
    whole = list(read_file(file))
    position = whole[5].position
    header = whole[0].position if suffix.endswith((".csv", ".tsv")) else 0
    before = b"\xff" * (position - header)
    if suffix.lower() == ".jsonl":
        before = before[:-1] + b"\n"  # the line end shows that a row begins here
    file.write_bytes(data[:header] + before + data[position:])
    assert list(read_file(file, position, whole[5].line)) == whole[5:]


def test_a_position_is_the_byte_at_which_the_row_begins(tmp_path: Path) -> None:
    for suffix, data in FORMATS.values():
        for position, _, row, _ in read_file(write(tmp_path, suffix, data)):
            assert isinstance(row, dict)
            rest = data[position:].decode()  # a position inside a character would not decode
            if suffix == ".json" and rest.startswith('"'):
                assert json.loads("{" + rest.rstrip("} \r\n") + "}}").popitem() is not None
            elif suffix == ".json":
                assert json.JSONDecoder().raw_decode(rest)[0] == row
            elif suffix.lower() == ".jsonl":
                assert json.loads(rest.strip("\ufeff \t\r\n").splitlines()[0]) == row
            else:
                fields = next(
                    filter(
                        None,
                        csv.reader(
                            io.StringIO(rest, newline=""), delimiter="\t" if suffix.endswith(".tsv") else ","
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
    def test_a_bad_line_is_a_row_and_reading_continues(self, tmp_path: Path) -> None:
        data = b'{"a": 1}\n{"a": \n\xff\n[1]\n"b"\n{"a": NaN\n' + b"[" * 100_000 + b'\n{"a": 2}\n'
        rows = read(tmp_path, ".jsonl", data)
        assert (rows[0], rows[-1]) == ({"a": 1}, {"a": 2})
        assert reasons(rows) == [
            "not valid JSON",
            "not UTF-8",
            "the row is a JSON list, not an object",
            "the row is a JSON str, not an object",
            "not valid JSON",
            "not valid JSON",
        ]

    def test_reading_resumes_at_a_bad_line(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".jsonl", b'{"a": 1}\noops\n{"a": 2}\n')
        position = [found.position for found in read_file(file)][1]
        again = [found.row for found in read_file(file, position)]
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
    def test_a_syntax_error_is_reported_with_its_byte(
        self, data: bytes, byte: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_text, "_CHUNK", chunk)
        message = failure(tmp_path, ".json", data)
        assert message == f"{tmp_path / 'rows.json'}: the file is not valid JSON at byte {byte}"

    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    @pytest.mark.parametrize(
        "data", [b'{"a": 1}\xff', b'{"\xc3\xa9": "\xff"}', BOM + b'{"a": "\xf0\x9f"}', b'[{"a": 1}]\xc3']
    )
    def test_bytes_that_are_not_utf8_are_reported_with_their_position(
        self, data: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_text, "_CHUNK", chunk)
        with pytest.raises(UnicodeDecodeError) as wanted:
            data.decode()
        message = failure(tmp_path, ".json", data)
        assert message.endswith(f"not UTF-8 at byte {wanted.value.start}")

    def test_the_rows_before_a_broken_one_are_given(self, tmp_path: Path) -> None:
        rows = read_file(write(tmp_path, ".json", b'[{"a": 1}, {"a": 2}, {"a"'))
        assert [next(rows), next(rows)] == [Found(1, 1, {"a": 1}), Found(11, 1, {"a": 2})]
        with pytest.raises(InputError):
            next(rows)

    def test_an_array_that_is_cut_between_two_rows_is_an_error(self, tmp_path: Path) -> None:
        assert "inside a JSON array" in failure(tmp_path, ".json", b'[{"a": 1}, {"a": 2},\n')

    @pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
    def test_a_value_that_is_no_object_is_one_bad_row(
        self, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A number across the end of a chunk must not become two rows, or row numbers would shift."""
        monkeypatch.setattr(json_text, "_CHUNK", chunk)
        file = write(tmp_path, ".json", b'[12345, -1.5e+10, "text", null, true, {"a": 1}] 678')
        found = list(read_file(file))
        assert [each.position for each in found] == [1, 8, 18, 26, 32, 38, 48]
        kinds = ["int", "float", "str", "NoneType", "bool", "int"]
        assert reasons([each.row for each in found]) == [
            f"the row is a {kind}, not an object" for kind in kinds
        ]
        assert found[5].row == {"a": 1}


class TestLines:
    """The line of a row is the one that a text editor shows."""

    @each_format
    def test_a_row_begins_on_its_line(self, suffix: str, data: bytes, tmp_path: Path) -> None:
        found = list(read_file(write(tmp_path, suffix, data)))
        for each in found:
            # the byte order mark of JSONL comes before the row; blank lines before a CSV row are separate lines
            assert each.line == data[: each.position].count(b"\n") + 1

    def test_blank_lines_count(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".jsonl", b'\n{"a": 1}\r\n \t\n\n{"a": 2}\n\n')
        assert [found.line for found in read_file(file)] == [2, 5]


class TestObjectsById:
    def test_a_row_is_named_by_its_key_unless_it_has_an_id(self, tmp_path: Path) -> None:
        data = b'{"7": {"q": "?"}, "8": {"id": "own", "q": "!"}}'
        assert read(tmp_path, ".json", data) == [{"id": "7", "q": "?"}, {"id": "own", "q": "!"}]

    @pytest.mark.parametrize("chunk", [1, 1 << 20])
    @pytest.mark.parametrize(
        "rows",
        [
            [{"q": "?", "meta": {"a": 1}}],  # one row with plain columns
            [{"q": {"text": "?"}}, {"q": {"text": "!"}}],  # rows whose only column is an object
            [{}],
        ],
    )
    def test_consecutive_rows_are_not_an_object_of_rows(
        self, rows: list[dict[str, Any]], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_text, "_CHUNK", chunk)
        assert read(tmp_path, ".json", "\n".join(map(json.dumps, rows)).encode()) == rows

    def test_an_array_of_such_rows_is_not_an_object_of_rows(self, tmp_path: Path) -> None:
        assert read(tmp_path, ".json", b'[{"q": {"text": "?"}}]') == [{"q": {"text": "?"}}]

    def test_a_repeated_key_is_two_rows(self, tmp_path: Path) -> None:
        assert read(tmp_path, ".json", b'{"7": {"q": 1}, "7": {"q": 2}}') == [
            {"id": "7", "q": 1},
            {"id": "7", "q": 2},
        ]


class TestExactness:
    """The fast parser must not change a value."""

    @pytest.mark.parametrize("inside", ["%s", "[%s]", '{"x": %s}'])
    @pytest.mark.parametrize(
        "value",
        ["NaN", "-Infinity", '"\\ud800"', '"\\u0000"', "1e999", "0.1", "-0", "9007199254740993", "1e22"],
    )
    def test_a_value_is_what_the_json_module_reads(self, value: str, inside: str, tmp_path: Path) -> None:
        text = '{"a": ' + inside % value + "}"
        (row,) = read(tmp_path, ".jsonl", text.encode())
        assert repr(row) == repr(json.loads(text))

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30, 2**63, 2**64 - 1])
    def test_long_numbers_keep_all_their_digits(self, value: int, tmp_path: Path) -> None:
        assert read(tmp_path, ".jsonl", b'{"id": %d}' % value) == [{"id": value}]


class TestHardFiles:
    def test_a_line_of_5_megabytes_is_a_row(self, tmp_path: Path) -> None:
        rows = [{"a": "x"}, {"a": "é" * 2_500_000}, {"a": "y"}]
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        for suffix in (".jsonl", ".json"):
            assert read(tmp_path, suffix, data) == rows
        assert read(tmp_path, ".csv", "a\nx\n{}\ny\n".format("é" * 2_500_000).encode()) == rows

    def test_nul_bytes_make_bad_rows(self, tmp_path: Path) -> None:
        """A crashed writer leaves a gap of NUL bytes instead of lines."""
        rows = read(tmp_path, ".jsonl", b'{"a": 1}\n' + b"\0" * 4096 + b'\n{"a": "x\0"}\n{"a": 2}\n')
        assert (rows[0], rows[-1]) == ({"a": 1}, {"a": 2})
        assert reasons(rows) == ["not valid JSON: a NUL byte"] * 2

    def test_a_nul_byte_in_json_is_reported_with_its_position(self, tmp_path: Path) -> None:
        assert failure(tmp_path, ".json", b'[{"a": 1}, \0]').endswith("not valid JSON at byte 11")

    def test_a_list_of_texts_is_no_rows(self, tmp_path: Path) -> None:
        """Teachers' completions are stored like this: they belong to the rows of another file."""
        rows = read(tmp_path, ".json", b'["one", "two:", " : "]')
        assert reasons(rows) == ["the row is a str, not an object"] * 3


class TestTables:
    def test_a_column_named_twice_is_refused(self, tmp_path: Path) -> None:
        message = failure(tmp_path, ".csv", b"a,b,c,b\n1,2,3,4\n")
        assert "columns 2 and 4 of the header have the same name" in message

    def test_rows_of_another_width_are_bad_rows(self, tmp_path: Path) -> None:
        rows = read(tmp_path, ".csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n")
        assert (rows[0], rows[3]) == ({"a": "1", "b": "2"}, {"a": "7", "b": "8"})
        assert reasons(rows) == [
            "the row has 1 cells, but the header has 2",
            "the row has 3 cells, but the header has 2",
        ]

    def test_text_after_a_closing_quote_is_a_bad_row(self, tmp_path: Path) -> None:
        rows = read(tmp_path, ".csv", b'a,b\n"x"y,2\n3,4\n')
        assert reasons(rows) == ["not valid CSV (',' expected after '\"')"]
        assert rows[1] == {"a": "3", "b": "4"}

    @pytest.mark.parametrize("row", [b'1,"2', b'"1,2'])
    def test_a_quote_that_is_never_closed_does_not_swallow_the_file(self, row: bytes, tmp_path: Path) -> None:
        message = failure(tmp_path, ".csv", b"a,b\n0,0\n" + row + b"\n3,4\n5,6\n")
        assert message.endswith(
            "a quote in the row at byte 8, line 3, is never closed; its cell would contain the 2 lines after it"
        )

    def test_bad_rows_are_the_same_from_every_position(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".csv", b'a,b\n1,2\n"x"y,2\n"p\nq"r,5\n3,4\n7\n5,6\n')
        whole = [(found.position, found.line, str(found.row)) for found in read_file(file)]
        assert [line for _, line, _ in whole] == [2, 3, 4, 5, 6, 7, 8], "lines of a bad row are counted"
        assert whole[2][0] == whole[3][0], "and are read together"
        for place in (0, 1, 2, 4, 5, 6):
            position, line, _ = whole[place]
            again = read_file(file, position, line)
            assert [(found.position, found.line, str(found.row)) for found in again] == whole[place:]

    @pytest.mark.parametrize("mark", [b"", BOM])
    def test_a_header_that_is_not_utf8_is_reported_with_its_byte(self, mark: bytes, tmp_path: Path) -> None:
        data = mark + b"ab,\xff\n"
        message = failure(tmp_path, ".csv", data)
        assert message.endswith(f"not UTF-8 at byte {data.index(0xFF)}")

    def test_a_row_that_is_not_utf8_is_a_bad_row(self, tmp_path: Path) -> None:
        file = write(tmp_path, ".csv", "a,b\n1,é\n".encode() + b"ab,\xff\n3,4\n")
        found = [(each.line, each.row) for each in read_file(file)]
        assert found[0] == (2, {"a": "1", "b": "é"})
        assert (found[1][0], str(found[1][1])) == (3, "not UTF-8")
        assert found[2] == (4, {"a": "3", "b": "4"})

    @pytest.mark.parametrize("header", [b"a,b\r1,2\r", b'a,"b'])
    def test_a_header_that_cannot_be_read(self, header: bytes, tmp_path: Path) -> None:
        assert "the header is not valid CSV" in failure(tmp_path, ".csv", header)

    def test_every_line_of_a_row_that_a_lone_quote_makes_is_a_bad_row(self, tmp_path: Path) -> None:
        """Three rows are lost, so three are counted: a single one would have stayed below the limit of bad rows."""
        data = b'a,b\n"Pain is worse,1\nnext,2\nshe says "no",3\nlast,4\n'
        found = list(read_file(write(tmp_path, ".csv", data)))
        assert [(each.line, isinstance(each.row, BadRowError)) for each in found] == [
            (2, True),
            (3, True),
            (4, True),
            (5, False),
        ]
        assert all(
            "in a row that spans several lines because of its quotes" in str(each.row) for each in found[:3]
        )

    @pytest.mark.parametrize("late", [False, True])
    def test_rows_that_quotes_of_another_kind_join_are_refused(self, late: bool, tmp_path: Path) -> None:
        r"""Every CSV reader takes `"Pain` and `5"` for a quoted cell; another row shows that quotes are plain characters."""
        joined, shows = b'"Pain is worse,1\na nail of 5",2\n', b'he says "yes" to it,3\n'
        data = b"a,b\n" + (joined + shows if late else shows + joined)
        message = failure(tmp_path, ".csv", data)
        first, other = (2, 4) if late else (3, 2)
        assert f"by their quotes, lines {first} to {first + 1} are one row" in message
        assert f"line {other} has a quote inside an unquoted cell" in message

    @pytest.mark.parametrize("between", [b"", b"cough,7\nfever,8\n"])
    def test_two_lone_quotes_that_join_rows_are_refused(self, between: bytes, tmp_path: Path) -> None:
        data = b'a,b\nx,0\n"Pain,1\n' + between + b'5",2\ny,3\n'
        message = failure(tmp_path, ".csv", data)
        last = 4 + between.count(b"\n")
        assert (
            f"by their quotes, lines 3 to {last} are one row, but each looks like a row; no other" in message
        )

    @pytest.mark.parametrize(
        ("data", "cell"),
        [
            (b'a,b\nx,0\n"Pain, severe\nno fever",1\n', "Pain, severe\nno fever"),  # prose
            (b'a,b\n"x,y",0\n"BP,120\n5",1\n', "BP,120\n5"),  # another quoted cell
            (b'a,b\n"one\ntwo",0\n"BP,120\n5",1\n', "BP,120\n5"),  # another cell of several lines
            (b'"a",b\n"BP,120\n5",1\n', "BP,120\n5"),  # a quoted header
            (b'a\n"BP\n5"\n', "BP\n5"),  # one column: no delimiters to count
            (b'a,b\n"BP,120,5\n5",1\n', "BP,120,5\n5"),  # more delimiters than the header has
        ],
    )
    def test_cells_of_several_lines_are_read(self, data: bytes, cell: str, tmp_path: Path) -> None:
        assert cell in [row["a"] for row in read(tmp_path, ".csv", data) if isinstance(row, dict)]

    def test_a_part_of_a_file_is_no_evidence(self, tmp_path: Path) -> None:
        """The evidence that quotes are CSV quotes may be in an earlier part."""
        data = b'a,b\n"x,y",0\n"BP,120\n5",1\n'
        (tmp_path / "a.csv").write_bytes(data)
        assert len(list(readers.read(str(tmp_path / "a.csv"), "csv", 12, line=3))) == 1

    def test_quotes_inside_unquoted_cells_are_plain_characters(self, tmp_path: Path) -> None:
        data = b'a,b\nhe says "yes",1\n5" nail,2\n"two\nlines, and ""a quote""",3\n'
        assert [row["a"] for row in read(tmp_path, ".csv", data) if isinstance(row, dict)] == [
            'he says "yes"',
            '5" nail',
            'two\nlines, and "a quote"',
        ]

    def test_many_columns_are_checked_in_linear_time(self, tmp_path: Path) -> None:
        """Comparing 20,000 names with each other would need 200 million comparisons."""
        compared = 0

        class Name(str):
            def __eq__(self, other: object) -> bool:
                nonlocal compared
                compared += 1
                return str.__eq__(self, other)

            __hash__ = str.__hash__

        tables._check_names([Name(f"column {number}") for number in range(2000)], "a.csv")
        assert compared < 20_000


class TestTsv:
    """Quotes are plain characters in TSV: lines, rows, rejects and the header add up."""

    @pytest.mark.parametrize("line_end", ["\n", "\r\n"])
    def test_a_quote_is_a_plain_character(self, line_end: str, tmp_path: Path) -> None:
        cells = [
            '"Pain is worse',
            "next row",
            '"',
            '""',
            'he says "yes"',
            '"quoted"',
            'end"',
            ' "x',
            "a,b",
            " ",
        ]
        lines = ["a\tb", "", *(f"{cell}\t{number}" for number, cell in enumerate(cells)), "short", ""]
        data = line_end.join(lines).encode()
        found = list(read_file(write(tmp_path, ".tsv", data)))
        assert [each.row["a"] for each in found if isinstance(each.row, dict)] == cells
        assert [each.line for each in found] == list(range(3, len(cells) + 4))
        bad = sum(isinstance(each.row, BadRowError) for each in found)
        blank, header = 1, 1
        assert (len(cells), bad) == (10, 1)
        assert len(cells) + bad + blank + header == data.count(b"\n")
        for each in (found[3], found[7]):
            assert next(read_file(tmp_path / "rows.tsv", each.position, each.line)) == each

    def test_a_real_file_keeps_all_its_lines(self, corpora: Path, tmp_path: Path) -> None:
        """NCBI has tokens that are a quote; read as CSV, each would swallow the lines up to the next one."""
        data = b"token\ttag\n" + (corpora / "ncbi_disease" / "train.tsv").read_bytes()
        found = read(tmp_path, ".tsv", data)
        lines = data.decode().splitlines()
        assert len(found) == sum(bool(line) for line in lines) - 1
        assert [row["token"] for row in found if isinstance(row, dict)] == [
            line.split("\t")[0] for line in lines[1:] if line
        ]

    def test_quoted_cells_are_reported(self, tmp_path: Path) -> None:
        """Pandas quotes a cell that contains a tab, a line end or a quote."""
        data = b'a\tb\n"x\ty"\t1\n"x\ny"\t2\n"he says ""yes"""\t3\nz\t4\n'
        rows = read(tmp_path, ".tsv", data)
        assert all("set the format to tsv_quoted" in reason for reason in reasons(rows)[:2])
        assert (len(reasons(rows)), rows[-1]) == (3, {"a": "z", "b": "4"})
        assert read(tmp_path, "quoted.tsv", data)[:3] == [
            {"a": "x\ty", "b": "1"},
            {"a": "x\ny", "b": "2"},
            {"a": 'he says "yes"', "b": "3"},
        ]
        assert "the header has quoted cells" in failure(tmp_path, ".tsv", b'"a"\t"b"\nx\ty\n')

    def test_headers_that_cannot_be_read(self, tmp_path: Path) -> None:
        assert "single carriage return" in failure(tmp_path, ".tsv", b"a\tb\rx\ty\r")
        assert "columns 1 and 3 of the header" in failure(tmp_path, ".tsv", b"a\tb\ta\n")


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".tsv", b'SECRET\tb\nSECRET\n"SECRET\tSECRET\tx\nSECRET\t\xff\n'),
        (".jsonl", b'{"SECRET": "SECRET"\n"SECRET"\n["SECRET"]\n{"SECRET": "\xff"}\n'),
        (".json", b'[{"a": "SECRET"}, "SECRET", SECRET]'),
        (".json", b'["SECRET", {"SECRET": "\xff"}]'),
        (".json", b'["SECRET", {"SECRET": "SECRET"}'),
        (".csv", b'SECRET,b\nSECRET\nSECRET,SECRET,SECRET\n"SECRET"SECRET,SECRET\nSECRET,"SECRET'),
        (".csv", b"a,b\nSECRET,SECRET\rSECRET,SECRET\nSECRET,\xff"),
        (".csv", b'SECRET,"SECRET" SECRET\nSECRET,SECRET'),
    ],
)
def test_no_message_contains_text_of_a_row(suffix: str, data: bytes, tmp_path: Path) -> None:
    said: list[str] = []
    try:
        for found in read_file(write(tmp_path, suffix, data)):
            said += reasons([found.row])
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
        ("pubmedqa/pqal_train.json", 500, "QUESTION"),
        ("medmcqa/dev_odd.jsonl", 2091, "question"),
    ],
)
def test_real_corpora_are_read_whole_and_from_the_middle(
    name: str, count: int, column: str, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "_CHUNK", 10_000)
    found = list(read_file(corpora / name))
    assert len(found) == count
    assert all(isinstance(each.row, dict) and column in each.row for each in found)
    for place in {count - 1, count // 2, count // 3}:
        assert list(read_file(corpora / name, found[place].position, found[place].line)) == found[place:]


def test_medistill_is_what_the_json_module_reads(corpora: Path) -> None:
    file = corpora / "medistill_d2n" / "medqa_d2n_valid.json"
    load: Callable[[str], Any] = json.loads
    assert [found.row for found in read_file(file)] == load(file.read_text(encoding="utf-8"))
