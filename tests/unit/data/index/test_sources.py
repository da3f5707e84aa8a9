"""The sources of a config are found before reading, and give the same rows in every way of reading."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from medray.cli.data import simulate
from medray.config import Config, read
from medray.config.checks import check
from medray.data.index.row_index import check_columns, index_range, records
from medray.data.index.sources import ClinicSource, FileSource, Source, check_sources, sources
from medray.data.records import BadRowError, Distill
from medray.data.shards.fingerprint import content_hashes
from medray.errors import InputError


def config(folder: Path, **data: Any) -> Config:
    (folder / "run.yaml").write_text(json.dumps({"data": data}))
    return read(folder / "run.yaml")


def refused(folder: Path, **data: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        check_sources(config(folder, **data))
    return caught.value


def ids(source: Source) -> list[str]:
    return [record.origin.id for *_, record in records(source) if not isinstance(record, BadRowError)]


@pytest.mark.parametrize("split", ["train", "validation", "decontaminate"])
@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("no.jsonl", lambda path: None, "there is no such file"),
        ("folder.jsonl", lambda path: path.mkdir(), "the folder has no file of a known format"),
        ("a.docx", lambda path: path.write_text("x"), "medray does not read .docx: this is a document"),
        ("a.docx.gz", lambda path: path.write_text("x"), "medray does not read .docx: this is a document"),
        ("a", lambda path: path.write_text("x"), "the file name has no ending that shows its format"),
        ("a.jsonl", lambda path: path.touch(), "the file is empty"),
        ("*.jsonl", lambda path: None, "no file matches"),
        ("x" * 300 + ".jsonl", lambda path: None, "there is no such file"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    tmp_path: Path, split: str, name: str, make: Callable[[Path], object], says: str
) -> None:
    (tmp_path / "good.csv").write_text("input,label\n")
    make(tmp_path / name)
    error = refused(tmp_path, **{"train": "good.csv"} | {split: ["good.csv", name]})
    assert error.what == says
    assert str(tmp_path / name) in str(error)
    assert error.fix


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("A.CSV", [("A.CSV", "csv")]),
        ("a.jsonl.gz", [("a.jsonl.gz", "jsonl")]),
        ("CDR.PubTator.txt", [("CDR.PubTator.txt", "pubtator")]),
        ({"path": "notes.txt", "format": "conll"}, [("notes.txt", "conll")]),
        ("folder", [("b.csv.gz", "csv"), ("c.parquet", "parquet")]),
        ("folder/*.gz", [("b.csv.gz", "csv")]),
        ({"path": "org/name", "format": "huggingface"}, [("name", "huggingface")]),
    ],
)
def test_a_source_is_found_with_its_format(tmp_path: Path, entry: Any, wanted: Any) -> None:
    for name in (
        "A.CSV",
        "a.jsonl.gz",
        "CDR.PubTator.txt",
        "notes.txt",
        "folder/b.csv.gz",
        "folder/c.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "folder" / "README.md").write_text("x")
    found = sources(config(tmp_path, train=entry), "train")
    assert [(source.name, getattr(source, "format", None)) for source in found] == wanted


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tiny.write_jsonl(tmp_path / folder / "x.jsonl", [{"input": "q", "label": folder}])
    found = sources(config(tmp_path, train=["a/x.jsonl", "b/x.jsonl"]), "train")
    assert [name for source in found for name in ids(source)] == ["a/x.jsonl:1", "b/x.jsonl:1"]


def test_a_converted_source_holds_the_same_rows(tmp_path: Path) -> None:
    rows = [{"input": f"q{number}", "label": "a"} for number in range(5)]
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    )
    [source] = sources(config(tmp_path, train="a.jsonl.gz"), "train")
    assert not source.positional
    source.convert(tmp_path / "plain")
    plain = source.plain_at(tmp_path / "plain")
    assert plain.positional
    assert ids(plain) == ids(source) == [f"a.jsonl.gz:{number}" for number in range(1, 6)]
    assert (tmp_path / "plain").stat().st_mode & 0o077 == 0, "it holds text of patients"


def test_the_clinic_is_the_same_from_any_range() -> None:
    clinic = ClinicSource(seed=3, size="small", split="train", count=20_000)
    assert clinic.ranges() == [(0, 8192), (8192, 16384), (16384, 20000)]
    whole = [found.row for found, _ in zip(clinic.read(16_000), range(6), strict=False)]
    assert [found.row for found in clinic.read(16_002, 16_005)] == whole[2:5]


@pytest.mark.parametrize("named", [True, False])
def test_the_first_recipe_reads_what_simulate_writes(tmp_path: Path, named: bool) -> None:
    """The recipe's columns and the defaults both work without a mapping."""
    tree = yaml.safe_load((Path(__file__).parents[4] / "configs/first_run.yaml").read_text())
    if not named:
        del tree["data"]["columns"]
    (tmp_path / "run.yaml").write_text(json.dumps(tree))
    for split in ("train", "validation"):
        words = ["simulate", str(tmp_path / f"{split}.jsonl"), "--split", split, "--rows", "20"]
        parser = argparse.ArgumentParser()
        simulate.add_to(parser.add_subparsers())
        arguments = parser.parse_args(words)
        assert arguments.run(arguments) == 0
    made = read(tmp_path / "run.yaml")
    check(made)
    for split in ("train", "validation"):
        (source,) = sources(made, split)
        index = index_range(source, 0, None, 1024)
        check_columns(source, set(index.columns_seen), f"data.{split}")
        assert index.rejects == []
        assert len(index.good) == 20
        assert index.good.all()
        assert index.with_rationale.all()
        assert index.with_entities.all()
        clinic_source = ClinicSource(seed=0, size="small", split=split, count=20)
        for (*_, ours), (*_, wanted) in zip(records(source), records(clinic_source), strict=True):
            assert isinstance(ours, Distill)
            assert isinstance(wanted, Distill)
            assert (ours.origin.id, ours.origin.group) == (wanted.origin.id, wanted.origin.group)
            assert replace(ours, origin=wanted.origin) == wanted


class TestTeacher:
    """A corpus with two teachers is read as the config says."""

    @staticmethod
    def rows(folder: Path, split: str, **method: Any) -> list[Distill]:
        pair = {"premise": "A man runs.", "hypothesis": "He moves.", "label": 0}
        for name in ("train", "validation"):
            tiny.write_jsonl(folder / f"esnli_{name}.json", [pair])
            for file, said in ((f"llm/{name}_CoT_0.json", "Palm"), (f"gpt-neox/esnli/{name}.json", "Gpt")):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(json.dumps([f"{said} thinks so.\nAnswer: neutral"]))
        (folder / "run.yaml").write_text(
            json.dumps({"data": {"dataset": "esnli", "root": str(folder)}, "method": method})
        )
        found = [row for source in sources(read(folder / "run.yaml"), split) for *_, row in records(source)]
        assert all(isinstance(row, Distill) for row in found)
        return found  # type: ignore[return-value]

    def test_labels_of_training_are_gold_or_the_teachers(self, tmp_path: Path) -> None:
        labels = {
            (source, split): {row.label for row in self.rows(tmp_path, split, label_source=source)}
            for source in ("gt", "llm")
            for split in ("train", "validation")
        }
        gold, taught = {"entailment"}, {"neutral"}
        assert labels == {
            ("gt", "train"): gold,
            ("llm", "train"): taught,
            ("gt", "validation"): gold,
            ("llm", "validation"): gold,
        }

    @pytest.mark.parametrize(
        ("teacher", "said"),
        [(None, "Palm thinks so."), ("palm", "Palm thinks so."), ("gpt", "Gpt thinks so.")],
    )
    def test_the_rationale_comes_from_the_chosen_teacher(
        self, teacher: str | None, said: str, tmp_path: Path
    ) -> None:
        assert [row.rationale for row in self.rows(tmp_path, "train", teacher=teacher)] == [said]


class TestContentHashes:
    def test_hashes_are_cached_by_size_and_time_and_computed_once(self, tmp_path: Path) -> None:
        file = tiny.write_jsonl(tmp_path / "a.jsonl", tiny.rows(3))
        source = FileSource(path=str(file), format="jsonl")
        assert content_hashes([source], tmp_path / "cache", compute=False) is None
        first = content_hashes([source], tmp_path / "cache")
        assert content_hashes([source], tmp_path / "cache", compute=False) == first
        tiny.write_jsonl(file, tiny.rows(4))
        assert content_hashes([source], tmp_path / "cache", compute=False) is None
        assert content_hashes([source], tmp_path / "cache") != first

    def test_a_damaged_entry_is_made_again(self, tmp_path: Path) -> None:
        source = FileSource(path=str(tiny.write_jsonl(tmp_path / "a.jsonl", tiny.rows(3))), format="jsonl")
        first = content_hashes([source], tmp_path / "cache")
        [entry] = (tmp_path / "cache").iterdir()
        entry.write_text('{"stamp": ')
        assert content_hashes([source], tmp_path / "cache") == first


def test_a_file_of_ids_must_exist(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("input,label\n")
    with pytest.raises(InputError, match="there is no such file") as caught:
        check_sources(
            Config.model_validate(
                {
                    "data": {
                        "train": str(tmp_path / "good.csv"),
                        "split": {"validation_ids": str(tmp_path / "ids.txt")},
                    }
                }
            )
        )
    assert caught.value.key == "data.split.validation_ids"
