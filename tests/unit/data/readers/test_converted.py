"""The converted format holds any sources in one file, with the source file and line of each row."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medray.data.readers import Found, convert, positional, ranges, read, write_converted
from medray.data.records import BadRowError
from medray.errors import InputError

HARD = '{"nan": NaN, "half": "\\ud800", "long": 123456789012345678901234567890, "in": {"x": 1e400}, "e": "é\\u2028"}'


def plain(found: Found) -> tuple[str | None, int, str]:
    return found.file, found.line, repr(found.row)


@pytest.fixture
def sources(tmp_path: Path) -> list[tuple[str, str]]:
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").write_text(f'\n{{"a": 1}}\noops\n{HARD}\n')
    (tmp_path / "in" / "b" / "a.json.gz").write_bytes(gzip.compress(b'{"7": {"q": 1},\n"8": {"q": 2}}'))
    (tmp_path / "in" / "b" / "c.conll").write_text("Fever\tB-Disease\n\nNone O\n")
    return [
        (str(tmp_path / "in" / name), format)
        for name, format in (("a.jsonl", "jsonl"), ("b/a.json.gz", "json"), ("b/c.conll", "conll"))
    ]


def test_rows_are_the_same_with_file_and_line(sources: list[tuple[str, str]], tmp_path: Path) -> None:
    target = tmp_path / "out" / "rows"
    assert convert(sources, target) == 7
    found = [plain(each) for each in read(str(target), "converted")]
    names = ("a.jsonl", "b/a.json.gz", "b/c.conll")
    assert found == [
        (name, each.line, repr(each.row))
        for name, source in zip(names, sources, strict=True)
        for each in read(*source)
    ]
    assert [(name, line) for name, line, _ in found] == [
        ("a.jsonl", 2),
        ("a.jsonl", 3),
        ("a.jsonl", 4),
        ("b/a.json.gz", 1),
        ("b/a.json.gz", 2),
        ("b/c.conll", 1),
        ("b/c.conll", 3),
    ]
    assert found[2][2] == repr(json.loads(HARD))


@pytest.mark.parametrize("block", [1, 50, 200, 1000])
def test_it_is_read_in_ranges_and_from_every_position(
    block: int, sources: list[tuple[str, str]], tmp_path: Path
) -> None:
    target = str(tmp_path / "rows")
    convert(sources, Path(target))
    assert positional(target, "converted")
    whole = list(read(target, "converted"))
    parts = [
        found
        for start, stop in ranges(target, "converted", block)
        for found in read(target, "converted", start, stop)
    ]
    assert list(map(plain, parts)) == list(map(plain, whole))
    for place, found in enumerate(whole):
        assert list(map(plain, read(target, "converted", found.position))) == list(map(plain, whole[place:]))


def test_a_single_file_is_named_without_its_folder(sources: list[tuple[str, str]], tmp_path: Path) -> None:
    convert(sources[:1], tmp_path / "rows")
    assert {found.file for found in read(str(tmp_path / "rows"), "converted")} == {"a.jsonl"}


def test_it_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    def items() -> Iterator[tuple[str, int, dict[str, int]]]:
        yield "a", 1, {"a": 1}
        raise InputError("the compressed file is cut off")

    target = tmp_path / "rows"
    write_converted([("a", 1, {"old": True}), ("a", 2, BadRowError("why"))], target)
    before = target.read_bytes()
    with pytest.raises(InputError):
        write_converted(items(), target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows"]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    write_converted([("a", 1, {"a": 1})], tmp_path / "rows")
    assert (tmp_path / "rows").stat().st_mode & 0o777 == 0o600


def test_a_row_of_any_depth_is_kept_or_a_bad_row(tmp_path: Path) -> None:
    """The limits of the parsers differ, and none of them may end the run."""
    rows = [
        f'{{"n": {number}, "a": {"[" * depth}{"]" * depth}}}'
        for depth in range(900, 1030)
        for number in ("1", "1e30")
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert convert([(str(tmp_path / "a.jsonl"), "jsonl")], tmp_path / "rows") == len(rows)
    assert len(list(read(str(tmp_path / "rows"), "converted"))) == len(rows)


@pytest.mark.parametrize("damage", [b"oops\n", b'{"a": 1}\n', b'{"file": "a", "line": 1, "row": 3}\n', b"\n"])
def test_a_damaged_one_is_refused(damage: bytes, tmp_path: Path) -> None:
    """The package writes this file itself, so an invalid line means a broken disk, not a bad row."""
    target = tmp_path / "rows"
    write_converted([("a", 1, {"a": 1})], target)
    place = target.stat().st_size
    target.write_bytes(target.read_bytes() + damage)
    with pytest.raises(InputError, match=f"damaged at byte {place}"):
        list(read(str(target), "converted"))


def test_rows_that_a_format_leaves_out_are_reported(tmp_path: Path) -> None:
    pair = "<QAPair pid='1'><Question qid='1-1' qtype='x'>q</Question><Answer>{}</Answer></QAPair>"
    file = tmp_path / "1.xml"
    file.write_text(f"<Document><QAPairs>{pair.format('yes')}{pair.format('')}</QAPairs></Document>")
    told: list[tuple[str, int]] = []
    assert (
        convert([(str(file), "medquad_xml")], tmp_path / "rows", skipped=lambda *what: told.append(what)) == 1
    )
    assert told == [("1.xml", 1)]
