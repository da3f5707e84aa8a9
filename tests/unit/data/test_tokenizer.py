"""Tokenizers: a trained one is deterministic, loses no text and is written once; its hash follows its files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray import storage
from medray.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer, trained_tokenizer_key
from medray.errors import InputError

TEXTS = [row[name] for row in tiny.rows(40) for name in ("input", "label")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tokenizers") / "key"
    assert train_tokenizer(TEXTS, 400, target) == target
    return target


@pytest.fixture(scope="module")
def trained(folder: Path) -> Any:
    return load_tokenizer(str(folder))


def files(folder: storage.StoragePath) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_training_again_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    again = train_tokenizer(TEXTS, 400, tmp_path / "other")
    assert files(again) == files(folder)
    assert tokenizer_hash(str(again)) == tokenizer_hash(str(folder))
    other = train_tokenizer(["other words of another corpus"] * 9, 400, tmp_path / "third")
    assert tokenizer_hash(str(other)) != tokenizer_hash(str(folder))


def test_pad_end_and_unknown_are_0_1_2(trained: Any) -> None:
    assert (trained.pad_token_id, trained.eos_token_id, trained.unk_token_id) == (0, 1, 2)
    assert sorted(trained.all_special_ids) == [0, 1, 2]
    assert len(trained) <= 400


@pytest.mark.parametrize(
    "text",
    [
        "fever and cough",
        "Never seen: Xyzzy-42!",
        "Ünïcode ☃ 日本語 🩺 σ 12,5 µg",
        "two  spaces\n\nlines\tand tabs",
        "\u0085\u2028 odd ends of lines",
        "a</s>b<pad>c",
    ],
)
def test_no_text_is_lost_and_no_token_is_unknown(text: str, trained: Any) -> None:
    ids = trained(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not {0, 1, 2} & set(ids)
    assert trained.decode(ids).removeprefix(" ") == text


def test_every_byte_has_an_entry(trained: Any) -> None:
    text = "".join(map(chr, range(1, 0x800)))
    ids = trained(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert trained.decode(ids).removeprefix(" ") == text


def test_words_of_the_corpus_are_fewer_tokens_than_bytes(trained: Any) -> None:
    text = " ".join(tiny.WORDS)
    assert len(trained(text)["input_ids"]) < len(text) / 3


def test_a_tokenizer_that_is_there_is_not_trained_again(folder: Path) -> None:
    def texts() -> Iterator[str]:
        raise AssertionError("the corpus is read")
        yield ""

    before = files(folder)
    assert train_tokenizer(texts(), 400, folder) == folder
    assert files(folder) == before


def test_two_that_train_at_once_leave_one_good_folder(folder: Path, tmp_path: Path) -> None:
    """Both find no tokenizer before either continues: each trains, one rename wins, and both can read the result."""
    barrier, found, target = threading.Barrier(2, timeout=60), [], tmp_path / "run" / "tokenizer"

    def texts() -> Iterator[str]:
        barrier.wait()
        yield from TEXTS

    def train() -> None:
        made = train_tokenizer(texts(), 400, target)
        found.append((made, files(made)))

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(target, files(folder))] * 2
    assert list(target.parent.iterdir()) == [target], "no staging folder is left"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "tokenizer"
    target.symlink_to(tmp_path / "gone")
    with pytest.raises(OSError):
        train_tokenizer(TEXTS[:3], 300, target)
    assert list(tmp_path.iterdir()) == [target]


class TestHash:
    def test_a_hash_changes_with_every_file_of_a_tokenizer(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        seen = {tokenizer_hash(str(folder))}
        assert tokenizer_hash(str(copy)) in seen, "it does not depend on the folder's path"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
            seen.add(tokenizer_hash(str(copy)))
        for name in ("chat_template.jinja", "spiece.model", "vocab.txt", "merges.txt"):
            (copy / name).write_text("x")
            seen.add(tokenizer_hash(str(copy)))
        (copy / "merges.txt").rename(copy / "vocab.json")
        seen.add(tokenizer_hash(str(copy)))
        assert len(seen) == 8

    def test_weights_do_not_change_the_hash(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / "model.safetensors").write_bytes(b"weights")
        (copy / "config.json").write_text("{}")
        assert tokenizer_hash(str(copy)) == tokenizer_hash(str(folder))

    def test_a_trained_one_is_named_by_corpus_and_size(self) -> None:
        keys = [
            trained_tokenizer_key(hashes, size)
            for hashes, size in ((["a", "b"], 400), (["b", "a"], 400), (["ab"], 400), (["a", "b"], 401))
        ]
        assert len(set(keys)) == 4
        assert trained_tokenizer_key(iter(["a", "b"]), 400) == keys[0]


class TestLoad:
    def test_one_without_a_pad_token_pads_with_its_end_token(self, trained: Any, tmp_path: Path) -> None:
        trained_copy = load_tokenizer(str(self.saved(trained, tmp_path, pad_token=None)))
        assert trained_copy.pad_token_id == trained_copy.eos_token_id == 1

    def test_one_without_an_end_token_is_refused(self, trained: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no end token"):
            load_tokenizer(str(self.saved(trained, tmp_path, eos_token=None)))

    @pytest.mark.parametrize("name", ["gone", "empty"])
    def test_a_folder_without_a_tokenizer_is_refused_by_name(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError) as caught:
            load_tokenizer(str(tmp_path / name))
        assert (caught.value.key, caught.value.value) == ("model.name", str(tmp_path / name))

    def saved(self, tokenizer: Any, folder: Path, **tokens: None) -> Path:
        from transformers import PreTrainedTokenizerFast

        wanted = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | tokens
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **wanted).save_pretrained(
            folder
        )
        return folder
