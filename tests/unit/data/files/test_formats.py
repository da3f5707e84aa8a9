"""The name of a file decides its format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medray.data.readers import format_of, positional, read
from medray.errors import InputError


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("A.JSONL.GZ", "jsonl"),
        ("s3://bucket/a.ndjson.zst", "jsonl"),
        ("a.json.bz2", "json"),
        ("a.csv.xz", "csv"),
        ("https://host/a.tsv?signature=x.json", "tsv"),
        ("part-0.snappy.parquet", "parquet"),
        ("CDR_TrainingSet.PubTator.txt", "pubtator"),
        ("a.pubtator.gz", "pubtator"),
        ("a.conll", "conll"),
        ("a.bio", "conll"),
        ("a.iob", "conll"),
        ("0000001.xml", "medquad_xml"),
        ("CDR_TestSet.BioC.xml", "bioc"),
        ("litcovid.bioc.json.gz", "bioc"),
        ("bioconductor.json", "json"),
        ("/data.csv/a.json", "json"),
    ],
)
def test_the_ending_names_the_format(name: str, format: str) -> None:
    assert format_of(name) == format


@pytest.mark.parametrize("name", ["notes.text", "a", "a.gz", "model.safetensors", "/data.csv/rows"])
def test_every_other_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError) as caught:
        format_of(name)
    assert ".jsonl" in str(caught.value)
    assert ".parquet" in str(caught.value)


def test_a_saved_data_set_is_recognised_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        format_of(str(tmp_path))
    (tmp_path / "state.json").write_text("{}")
    assert format_of(str(tmp_path)) == "huggingface"


def test_only_plain_files_are_read_from_any_position() -> None:
    assert all(
        positional(f"a.{kind}", kind) for kind in ("jsonl", "json", "csv", "tsv", "parquet", "converted")
    )
    assert not any(
        positional("a", kind) for kind in ("pubtator", "conll", "bioc", "medquad_xml", "huggingface")
    )
    assert not positional("a.jsonl.gz", "jsonl")


def test_an_unknown_format_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="there is no reader for the format 'xls'"):
        read("a.xls", "xls")


def test_importing_the_readers_imports_nothing_heavy() -> None:
    """The command line checks file names before it does anything else."""
    code = (
        "import sys, medray.data.readers, medray.data.files; "
        "print([name for name in ('fsspec', 'pyarrow', 'datasets', 'numpy', 'torch') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
