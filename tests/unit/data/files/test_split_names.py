"""Folders and globs with files of several splits are refused with a fix: training would read the test rows too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest
import tiny

from medray.config import read
from medray.data import readers
from medray.data.files.split_names import is_data, split_of
from medray.data.index.sources import sources
from medray.errors import InputError

ROW = {"input": "q", "label": "a"}


def names(folder: Path, path: Any, split: str = "train") -> list[str]:
    """Return the names of the sources of `split` that `path` names."""
    train = "other.jsonl" if split == "validation" else path
    tiny.write_jsonl(folder / "other.jsonl", [ROW])
    tree = {"data": {"train": train, split: path}}
    (folder / "run.yaml").write_text(json.dumps(tree))
    return [source.name for source in sources(read(folder / "run.yaml"), split)]


def made(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.write_jsonl(folder / name, [ROW])
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("MTS-Dialog-TrainingSet.csv", "train"),
        ("MTS-Dialog-ValidationSet.csv", "validation"),
        ("MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv", "test"),
        ("CDR_DevelopmentSet.PubTator.txt", "validation"),
        ("trainset2.jsonl", "train"),
        ("dev_odd.jsonl", "validation"),
        ("notes.eval.jsonl", "test"),
        ("NCBItestset_corpus.txt", None),
        ("data/dev/1.xml", "validation"),
        ("train/test.jsonl", "test"),
        ("TEST.JSONL", "test"),
        ("val2017.json", "validation"),
        ("contest.jsonl", None),
        ("protest_developer_value.jsonl", None),
        ("trainee.csv", None),
        ("a.jsonl", None),
        ("mimic_tr.jsonl", "train"),
        ("mimic_te.jsonl", "test"),
        ("mimic-va.jsonl", "validation"),
        ("mimic.vl.jsonl", "validation"),
        ("x_training_v2.jsonl", "train"),
        ("x_unseen.jsonl", "test"),
        ("x-blind.csv", "test"),
        ("gold.csv", "test"),
        ("notes_held_out.jsonl", "test"),
        ("NotesHeldOut.jsonl", "test"),
        ("notes.hold-out.jsonl", "test"),
        ("gold_train.jsonl", "train"),
        ("train/qa_te.jsonl", "train"),
        ("golden_blindness_try.csv", None),
    ],
)
def test_a_split_is_a_word_of_a_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_files_that_are_not_data() -> None:
    for name in (
        *("README.md", "readme.json", "README_train.json", "LICENSE", "license.txt", "licence.json"),
        *(
            "dataset_infos.json",
            "dataset_info.json",
            "_SUCCESS",
            "_metadata",
            ".part-0.parquet.crc",
            "a.csv.crc",
        ),
        *("a.jsonl.md5", "SHA256SUMS", "checksums.json", ".hidden.jsonl", "import.json", "rejects.jsonl"),
        "CITATION.json",
    ):
        assert not is_data(f"/x/{name}"), name
    for name in (
        "readmission.csv",
        "license_plates.csv",
        "data.jsonl",
        "train.json",
        "notices.csv",
        "states.json",
    ):
        assert is_data(f"/x/{name}"), name


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        (
            ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"),
            "data.train: {}/train-0000*; ",
        ),
        (("train.jsonl", "valid.jsonl"), "data.train: {0}/train.jsonl, data.validation: {0}/valid.jsonl; "),
        (
            ("train/1.jsonl", "train/2.jsonl", "dev/1.jsonl"),
            "data.train: {0}/train/*, data.validation: {0}/dev/1.jsonl",
        ),
        (
            ("a_train.jsonl", "b_train.jsonl", "a_test.jsonl"),
            "data.train: [{0}/a_train.jsonl, {0}/b_train.jsonl]",
        ),
        (
            ("clinical-test-results.jsonl", "vitals.jsonl"),
            "data.train: {0}/vitals.jsonl; if all of them belong to data.train, write them as a list: "
            "[{0}/clinical-test-results.jsonl, {0}/vitals.jsonl]",
        ),
        (("train.jsonl", "more.jsonl"), "data.train: {0}/train.jsonl; if all"),
        (("mimic_tr.jsonl", "mimic_te.jsonl"), "data.train: {0}/mimic_tr.jsonl; if all"),
        (("x_training_v2.jsonl", "x_unseen.jsonl"), "data.train: {0}/x_training_v2.jsonl; if all"),
        (("dev.jsonl", "test.jsonl", "dataset_infos.json"), "data.validation: {}/dev.jsonl"),
    ],
)
@pytest.mark.parametrize("pattern", ["", "/**/*.jsonl"])
def test_several_splits_are_refused_with_a_fix_that_works(
    files: tuple[str, ...], fix: str, pattern: str, tmp_path: Path
) -> None:
    folder = made(tmp_path / "corpus", *files)
    with pytest.raises(InputError) as caught:
        names(tmp_path, f"{folder}{pattern}")
    assert (caught.value.key, caught.value.value) == ("data.train", f"{folder}{pattern}")
    assert (
        "of these files have a split" in caught.value.what or "belong to several splits" in caught.value.what
    )
    assert fix.format(folder) in str(caught.value.fix)
    written = str(caught.value.fix).partition("data.train: ")[2].partition(";")[0].partition(", data.val")[0]
    if written and "file]" not in written:  # what it says to write works
        taken = names(tmp_path, written.strip("[]").split(", "))
        assert len(taken) == (sum(split_of(name) == "train" for name in files) or 1)
    everything = str(caught.value.fix).rpartition("as a list: [")[2].removesuffix("]").split(", ")
    assert len(names(tmp_path, everything)) == sum(is_data(name) for name in files)


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (
            ("train-0.jsonl", "train-1.jsonl", "dataset_infos.json", "_SUCCESS"),
            ["train-0.jsonl", "train-1.jsonl"],
        ),
        (("a.jsonl", "b.jsonl"), ["a.jsonl", "b.jsonl"]),
        (("test.jsonl",), ["test.jsonl"]),
        (("test-1.jsonl", "test-2.jsonl"), ["test-1.jsonl", "test-2.jsonl"]),
    ],
)
def test_files_of_one_split_are_taken(files: tuple[str, ...], taken: list[str], tmp_path: Path) -> None:
    folder = made(tmp_path / "corpus", *files)
    assert names(tmp_path, str(folder)) == taken
    assert names(tmp_path, f"{folder}/*") == taken


def test_a_list_takes_what_it_names(tmp_path: Path) -> None:
    made(tmp_path, "train.jsonl", "test.jsonl")
    assert names(tmp_path, ["train.jsonl", "test.jsonl"]) == ["train.jsonl", "test.jsonl"]


def test_splits_at_a_url(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for name in ("train-0.jsonl", "train-1.jsonl", "test-0.jsonl"):
        system.pipe(f"/splits/{name}", b'{"input": "q", "label": "a"}\n')
    try:
        with pytest.raises(InputError) as caught:
            names(tmp_path, "memory://splits")
        assert "data.train: memory://splits/train-*" in str(caught.value.fix)
        assert names(tmp_path, "memory://splits/train-*") == ["train-0.jsonl", "train-1.jsonl"]
    finally:
        system.rm("/splits", recursive=True)


def test_a_saved_dict_of_splits_is_not_read_twice(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([ROW])
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(tmp_path / "saved")
    assert names(tmp_path, "saved") == ["saved"]
    with pytest.raises(InputError) as caught:
        names(tmp_path, "saved", "validation")
    assert "it has dev, train" in str(caught.value.fix)
    assert names(tmp_path, {"path": "saved", "split": "dev"}, "validation") == ["saved"]
    with pytest.raises(InputError, match="needs its split here"):
        names(tmp_path, {"path": "org/name", "format": "huggingface"}, "validation")


def test_a_saved_split_is_not_used_as_another_split(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"test": datasets.Dataset.from_list([ROW], split="test")})
    both["test"].save_to_disk(tmp_path / "saved")
    assert len(list(readers.read(str(tmp_path / "saved"), "huggingface"))) == 1
    with pytest.raises(InputError, match="and it is not this one"):
        list(readers.read(str(tmp_path / "saved"), "huggingface", split="dev"))


def test_published_folders(corpora: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several splits"):
        names(tmp_path, str(corpora / "mts_dialog"))
    with pytest.raises(InputError, match="several splits"):
        names(tmp_path, str(corpora / "bc5cdr"))
