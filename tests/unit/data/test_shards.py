"""Token shards: what is read is what was written, a half-written file is never read, and waiting has an end."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny

from medray.data.encode import ABSENT, IGNORED, Encoder, Example
from medray.data.records import Distill
from medray.data.shards import FAILED, ShardStore, shard_path, write_shard
from medray.data.tokenizer import load_tokenizer
from medray.errors import RunFailedError

CAUSAL = [
    Example([5, 6, 7, 1], [IGNORED, IGNORED, 7, 1], False, False),
    ABSENT,
    Example([5, 1], [IGNORED, 1], False, True),
]
SEQ2SEQ = [
    Example([5, 6, 1], [7, 1], False, False),
    ABSENT,
    Example([8, 9, 1], [4, 3, 1], True, False),  # source and target of one length
]


def made_records(count: int) -> list[Distill]:
    entities = [({"text": "fièvre", "assertion": "absent"},), (), None]
    return [
        Distill(f"id-{n}", "s", "g", "", f"input {n}", f"lábel\n{n}", None, entities[n % 3])
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shard 0: causal and seq2seq examples as two tasks, with the truth."""
    write_shard(tmp_path, 0, made_records(3), {"label": CAUSAL, "other": SEQ2SEQ}, truth=True)
    return tmp_path


def test_examples_are_read_as_they_were_written(folder: Path) -> None:
    store = ShardStore(folder)
    for task, examples in (("label", CAUSAL), ("other", SEQ2SEQ)):
        for row, example in enumerate(examples):
            ids, labels = store.example(0, row, task)
            assert (ids.tolist(), labels.tolist()) == (example.input_ids, example.labels)
            assert (ids.dtype, labels.dtype) == (np.int32, np.int32)


def test_ids_and_truth_are_read_as_they_were_written(folder: Path) -> None:
    store = ShardStore(folder)
    for row, record in enumerate(made_records(3)):
        assert store.text(0, row, "id") == record.id
        assert store.text(0, row, "reference") == record.label
        entities = store.text(0, row, "entities")
        assert (None if entities is None else tuple(json.loads(entities))) == record.entities


def test_the_training_split_keeps_no_text(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, made_records(3), {"label": CAUSAL}, truth=False)
    names = ShardStore(tmp_path).table(0).column_names
    assert names == [
        "id",
        *(f"label.{name}" for name in ("input_ids", "labels", "length", "loss_tokens", "cut")),
    ]


def test_a_length_counts_what_a_forward_computes(folder: Path) -> None:
    """Of a causal example the sequence; of an encoder-decoder's source and target, equally long ones too."""
    store = ShardStore(folder)
    assert store.counts(0, "label", "length").tolist() == [4, 0, 2]
    assert store.counts(0, "other", "length").tolist() == [5, 0, 6]
    assert store.table(0).column("label.cut").to_pylist() == [False, False, True]
    assert store.table(0).column("other.cut").to_pylist() == [False, False, True]
    assert store.counts(0, "label", "length").dtype == np.int32


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_the_counts_of_real_shards_are_those_of_their_labels(architecture: str, tmp_path: Path) -> None:
    rows = tiny.rows(23)
    tokens = tiny.token_set(tmp_path, rows, architecture=architecture, shard_rows=6)
    store, encoder = ShardStore(Path(tokens.folder)), Encoder(load_tokenizer(tokens.tokenizer), tokens.spec)
    places = tokens.rows()
    assert [store.text(*place, "id") for place in places] == [row["id"] for row in rows]
    for (shard, number), row in zip(places, rows, strict=True):
        record = Distill("", "", "", "", row["input"], row["label"], row["rationale"], None)
        for task, [example] in encoder.encode([record]).items():
            ids, labels = store.example(shard, number, task)
            assert (ids.tolist(), labels.tolist()) == (example.input_ids, example.labels)
            assert store.counts(shard, task, "loss_tokens")[number] == (labels != IGNORED).sum()
            size = len(ids) if architecture == "causal" else len(ids) + len(labels)
            assert store.counts(shard, task, "length")[number] == size
        assert (store.counts(shard, "rationale", "loss_tokens")[number] == 0) == (not row["rationale"])


class TestAtomicity:
    def test_only_the_shard_is_left_and_a_second_write_replaces_it(self, folder: Path) -> None:
        assert [file.name for file in folder.iterdir()] == ["shard-000000.parquet"]
        write_shard(folder, 0, made_records(2), {"label": CAUSAL[:2]}, truth=False)
        assert [file.name for file in folder.iterdir()] == ["shard-000000.parquet"]
        assert ShardStore(folder).table(0).num_rows == 2

    def test_a_write_that_fails_leaves_no_shard(self, tmp_path: Path) -> None:
        with pytest.raises(pa.ArrowInvalid):
            write_shard(tmp_path, 0, made_records(3), {"label": CAUSAL[:2]}, truth=False)
        assert not shard_path(tmp_path, 0).exists()
        assert not ShardStore(tmp_path).has(0)

    def test_what_a_killed_writer_left_is_not_a_shard(self, folder: Path) -> None:
        whole = shard_path(folder, 0).read_bytes()
        (folder / ".shard-000001-k3x9").write_bytes(whole[: len(whole) // 2])
        store = ShardStore(folder)
        assert (store.has(0), store.has(1)) == (True, False)
        write_shard(folder, 1, made_records(3), {"label": CAUSAL}, truth=False)
        assert store.table(1).num_rows == 3

    def test_readers_see_a_whole_shard_whenever_they_look(self, tmp_path: Path) -> None:
        """A shard of 20,000 rows is written again and again while another thread reads it."""
        examples = [CAUSAL[0]] * 20_000
        records, stop, seen = made_records(len(examples)), threading.Event(), set()

        def look() -> None:
            last = False
            while not last:
                last = stop.is_set()  # the last look comes after the last write, however slow this thread is
                if ShardStore(tmp_path).has(0):
                    seen.add(ShardStore(tmp_path).table(0).num_rows)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(5):
                write_shard(tmp_path, 0, records, {"label": examples}, truth=False)
        finally:
            stop.set()
            thread.join()
        assert seen == {20_000}


class TestStore:
    def test_more_shards_than_it_keeps(self, tmp_path: Path) -> None:
        for index in range(5):
            records = [Distill(f"{index}-{n}", "s", "g", "", "i", "l", None, None) for n in range(3)]
            write_shard(tmp_path, index, records, {"label": CAUSAL}, truth=False)
        store = ShardStore(tmp_path, keep=2)
        for index in [0, 1, 2, 3, 4, 0, 3, 1]:
            assert store.text(index, 2, "id") == f"{index}-2"

    def test_two_threads_may_read_at_once(self, tmp_path: Path) -> None:
        for index in range(4):
            records = [Distill(f"{index}-{n}", "s", "g", "", "i", "l", None, None) for n in range(3)]
            write_shard(tmp_path, index, records, {"label": CAUSAL}, truth=False)
        store, wrong = ShardStore(tmp_path, keep=1), []

        def read(first: int) -> None:
            for turn in range(100):
                index = (first + turn) % 4
                if store.text(index, 1, "id") != f"{index}-1":
                    wrong.append(index)

        threads = [threading.Thread(target=read, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestWaiting:
    def test_a_shard_that_comes_later_is_waited_for(self, tmp_path: Path) -> None:
        store, found = ShardStore(tmp_path), []
        thread = threading.Thread(target=lambda: found.append(store.text(3, 0, "id")), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "it waits"
        write_shard(tmp_path, 2, made_records(3), {"label": CAUSAL}, truth=False)
        thread.join(0.2)
        assert thread.is_alive(), "another shard is not the one"
        write_shard(tmp_path, 3, made_records(3), {"label": CAUSAL}, truth=False)
        thread.join(10)
        assert found == ["id-0"]

    def test_a_failed_pipeline_ends_the_wait_with_its_reason(self, tmp_path: Path) -> None:
        store, said = ShardStore(tmp_path), []

        def wait() -> None:
            try:
                store.wait(0, poll_seconds=0.01)
            except RunFailedError as error:
                said.append(str(error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        (tmp_path / FAILED).write_text(json.dumps({"reason": "train.jsonl changed while it was read"}))
        thread.join(10)
        assert said == ["the data pipeline failed: train.jsonl changed while it was read"]

    def test_a_shard_that_is_there_is_read_though_the_pipeline_failed_later(self, folder: Path) -> None:
        (folder / FAILED).write_text(json.dumps({"reason": "disk full"}))
        store = ShardStore(folder)
        assert store.text(0, 0, "id") == "id-0"
        with pytest.raises(RunFailedError, match="disk full"):
            store.table(1)
