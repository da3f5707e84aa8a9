"""Hugging Face data sets are read from disk, or by name without a network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from medray.data.files import content_hash, expand, stamp
from medray.data.readers import Found, convert, format_of, read
from medray.data.readers.huggingface import fingerprint, has_classes
from medray.data.records import BadRowError
from medray.errors import InputError

ROWS = [{"id": str(number), "facts": {"fever": "yes"}, "tags": ["a"] * number} for number in range(5)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_rows_of_a_saved_data_set(folder: str) -> None:
    assert format_of(folder) == "huggingface"
    assert list(read(folder, "huggingface")) == [Found(n, n + 1, row) for n, row in enumerate(ROWS)]
    assert [found.position for found in read(folder, "huggingface", 2, 4)] == [2, 3]


def test_selected_rows_come_in_their_order(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).select([4, 1]).save_to_disk(tmp_path / "saved")
    assert [found.row for found in read(str(tmp_path / "saved"), "huggingface")] == [ROWS[4], ROWS[1]]


def test_it_is_one_source_with_a_stamp_and_a_hash(folder: str) -> None:
    assert expand(folder, key="data.train") == (folder,)
    assert stamp(folder) == stamp(folder)
    before = content_hash(folder)
    (Path(folder) / "more.arrow").write_bytes(b"x")
    assert content_hash(folder) != before


def test_a_split_of_several(tmp_path: Path) -> None:
    splits = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    path = str(tmp_path / "saved")
    assert [found.row for found in read(path, "huggingface", split="test")] == ROWS[2:]
    assert convert([(path, "huggingface")], tmp_path / "rows", split="test") == 3
    with pytest.raises(
        InputError, match=r"split = 'dev': the data set has no such split\n.*one of test, train"
    ):
        list(read(path, "huggingface", split="dev"))


def test_bytes_are_a_bad_row(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"image": [b"SECRET", None]}).save_to_disk(tmp_path / "saved")
    first, second = (found.row for found in read(str(tmp_path / "saved"), "huggingface"))
    assert isinstance(first, BadRowError)
    assert str(first) == "column 'image' holds bytes, which is not a JSON type"
    assert second == {"image": None}


def test_a_fingerprint_is_of_the_rows_of_one_split(tmp_path: Path) -> None:
    splits = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    both = str(tmp_path / "both")
    assert (
        fingerprint(both, "test", None) == fingerprint(both, "test", None) != fingerprint(both, "train", None)
    )


def test_without_a_network_the_message_has_a_fix() -> None:
    with pytest.raises(InputError, match="save_to_disk"):
        list(read("nobody/no-such-data-set", "huggingface"))


@pytest.mark.parametrize(
    ("path", "why"), [("a/b/c", "neither a folder nor the name"), (".", "the folder holds no data set")]
)
def test_a_path_that_is_not_a_data_set_is_refused(path: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        list(read(path, "huggingface"))


def test_class_labels_are_their_names(tmp_path: Path) -> None:
    answer = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"answer": answer, "tags": datasets.Sequence(answer), "n": datasets.Value("int64")}
    )
    rows = {"answer": [1, 0, -1], "tags": [[0, 1], [], None], "n": [1, 0, 1]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "both")
    assert [found.row for found in read(str(tmp_path / "saved"), "huggingface")] == [
        {"answer": "yes", "tags": ["no", "yes"], "n": 1},
        {"answer": "no", "tags": [], "n": 0},
        {"answer": None, "tags": None, "n": 1},
    ]
    for name, split in (("saved", "train"), ("both", "train"), ("both", "test")):
        assert has_classes(str(tmp_path / name), split)


def test_data_without_class_labels_has_none(folder: str) -> None:
    """Their fingerprints stay as they were before names were read."""
    assert not has_classes(folder)
