"""A file of which no row can be used is told what is wrong with it as a whole, without a text of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny

from medray.config import Config
from medray.data.index.sources import FileSource
from medray.data.index.split_checks import check_reading
from medray.data.readers import format_of, read
from medray.data.readers.sniff import what_is_wrong
from medray.errors import InputError

ROW = '{"input": "SECRET", "label": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "what", "fix"),
    [
        ("a.jsonl", f"[{ROW},\n{ROW}]", "a JSON array", "format: json"),
        ("a.jsonl", f"{ROW},\n{ROW},\n", "each line ends with a comma", "format: json"),
        ("a.jsonl", f"{ROW},\n{ROW}\n", "each line ends with a comma", "format: json"),
        ("a.jsonl", '{\n "input": "SECRET"\n}\n', "over several lines", "format: json"),
        ("a.csv", "input;label\nSECRET;b\n", "separated by semicolons", "commas"),
        ("a.csv", "input\tlabel\nSECRET\tb\n", "separated by tabs", "format: tsv"),
        ("a.tsv", "input,label\nSECRET,b\n", "separated by commas", "format: csv"),
        ("a.csv", "input,label\nSECRET,caf\xe9 au lait\n", "probably Windows-1252", "iconv"),
        ("a.csv", "\ufeffinput,label\n", "UTF-16", "UTF-8"),
    ],
)
def test_the_whole_file_is_what_is_wrong(
    name: str, content: str, what: str, fix: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-16-le" if what == "UTF-16" else "cp1252"))
    source = FileSource(path=str(path), format=path.suffix[1:])
    made = Config.model_validate({"data": {"train": str(path)}})
    with pytest.raises(InputError) as caught:
        check_reading(made, "train", 0, Counter({"bad": 1}), tmp_path / "rejects.jsonl", [source])
    assert what in caught.value.what
    assert fix in str(caught.value.fix)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f"{ROW}\n{ROW}\n"),
        ("a.csv", "input,label\na;b,c\n"),
        ("a.csv", "input\na\n"),
        ("a.json", ""),
    ],
)
def test_nothing_is_wrong_with_a_sound_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert what_is_wrong(str(tmp_path / name), name.partition(".")[2]) is None


def test_a_named_column_of_a_file_with_semicolons(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("input;label\na;b\n")
    with pytest.raises(InputError, match="separated by semicolons") as caught:
        tiny.index(FileSource(path=str(tmp_path / "a.csv"), format="csv"), 7)
    assert caught.value.key == "data.columns.input"


@pytest.mark.parametrize(
    ("content", "by_columns"),
    [
        ('{"input": ["a", "b"], "label": ["c", "d"]}', True),
        ('{"input": {"0": "a", "1": "b"}, "label": {"0": "c", "1": "d"}}', True),
        ('{"7": {"input": "a", "label": "b"}, "8": {"input": "c", "label": "d"}}', False),
        ('[{"input": ["a", "b"], "label": ["c", "d"]}]', False),
        ('{"messages": [{"role": "user"}, {"role": "a"}], "tags": ["c", "d"]}', False),
        ('{"input": ["a", "b"], "label": "c"}', False),
    ],
)
def test_json_by_columns_is_refused(content: str, by_columns: bool, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    if by_columns:
        with pytest.raises(InputError, match="all values of a column") as caught:
            list(read(str(tmp_path / "a.json"), "json"))
        assert "orient='records'" in str(caught.value.fix)
    else:
        assert list(read(str(tmp_path / "a.json"), "json"))


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("a.tar.gz", "an archive", "unpack it"),
        ("Notes.XLSX", "a workbook", "save the sheet as CSV"),
        ("a.ann", "BRAT", "BioC or PubTator"),
        ("a.pkl", "can run code", "Parquet"),
        ("note.txt", "plain text", "one JSON object per note"),
    ],
)
def test_formats_that_are_not_read_are_refused_by_name(name: str, what: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        format_of(name)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)
