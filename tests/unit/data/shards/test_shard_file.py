"""Token shards are read as they were written, a half-written file is never read, and every wait ends."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding import bpe, chat, distill, ids_of, spec, targets_of

from medray import storage
from medray.data.encode import IGNORED
from medray.data.encode.encoder import Encoder, TaskColumns
from medray.data.shards import shard_file
from medray.data.shards.seal import FAILED, MANIFEST, DamagedShardError, is_sound
from medray.data.shards.shard_file import ShardStore, shard_path, shard_table, write_shard
from medray.errors import RunFailedError


def columns(rows: list[tuple[list[int], list[int], bool]]) -> TaskColumns:
    """Return the columns of (ids, targets, cut) rows."""
    return TaskColumns(
        np.array([token for ids, _, _ in rows for token in ids], np.int32),
        np.cumsum([len(ids) for ids, _, _ in rows], dtype=np.int64),
        np.array([token for _, targets, _ in rows for token in targets], np.int32),
        np.cumsum([len(targets) for _, targets, _ in rows], dtype=np.int64),
        np.array([cut for _, _, cut in rows]),
    )


CAUSAL = columns(
    [
        ([5, 6, 7, 1], [2, 4], False),
        ([], [], False),
        ([5, 1], [1, 2], True),
        ([9, 4, 4, 1, 8, 70_000, 3, 1], [2, 4, 6, 8], False),  # two answers, and an id over 16 bits
    ]
)
LABELS = [[IGNORED, IGNORED, 7, 1], [], [IGNORED, 1], [IGNORED, IGNORED, 4, 1, IGNORED, IGNORED, 3, 1]]
SEQ2SEQ = columns(
    [
        ([5, 6, 1], [7, 1], False),
        ([], [], True),
        ([8, 9, 1], [4, 3, 1], True),  # source and target of one length
        ([2, 1], [1], False),
    ]
)
IDS = [f"id-{number}" for number in range(4)]
TRUTH: Any = [("lábel\n0", ({"text": "fièvre", "assertion": "absent"},)), ("", ()), ("2", None), ("3", None)]


def write(folder: Path, index: int = 0, ids: list[str] = IDS, found: Any = None, **changes: Any) -> None:
    given: dict[str, Any] = {"truth": None, "architecture": "causal", **changes}
    architecture = given.pop("architecture")
    write_shard(folder, index, ids, found or {"label": CAUSAL}, architecture, **given)


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    write(tmp_path, truth=TRUTH)
    return tmp_path


class TestCausal:
    def test_examples_are_read_as_they_were_written(self, causal: Path) -> None:
        store = ShardStore(causal)
        for row, labels in enumerate(LABELS):
            ids, found = store.example(0, row, "label")
            assert (ids.tolist(), found.tolist()) == (ids_of(CAUSAL, row), labels)
            assert (ids.dtype, found.dtype) == (np.dtype("int32"), np.dtype("int32"))

    def test_generation_starts_before_the_last_answer(self, causal: Path) -> None:
        found = [ShardStore(causal).prompt(0, row).tolist() for row in range(4)]
        assert found == [[5, 6], [], [5], [9, 4, 4, 1, 8, 70_000]]

    def test_counts(self, causal: Path) -> None:
        store = ShardStore(causal)
        for name, wanted in (("length", [4, 0, 2, 8]), ("loss_tokens", [2, 0, 1, 4])):
            assert store.counts(0, "label", name).tolist() == wanted
            assert store.counts(0, "label", name).dtype == np.int32
        assert store.counts(0, "label", "cut").tolist() == [False, False, True, False]
        assert store.counts(0, "label", "cut").dtype == bool


class TestSeq2Seq:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ShardStore:
        write(tmp_path, found={"label": SEQ2SEQ, "rationale/a.b": SEQ2SEQ}, architecture="seq2seq")
        return ShardStore(tmp_path)

    @pytest.mark.parametrize("task", ["label", "rationale/a.b"])
    def test_examples_are_read_as_they_were_written(self, task: str, store: ShardStore) -> None:
        for row in range(4):
            ids, labels = store.example(0, row, task)
            assert (ids.tolist(), labels.tolist()) == (ids_of(SEQ2SEQ, row), targets_of(SEQ2SEQ, row))
            assert (ids.dtype, labels.dtype) == (np.dtype("int32"), np.dtype("int32"))
            assert store.prompt(0, row, task).tolist() == ids_of(SEQ2SEQ, row)

    def test_a_length_counts_source_and_target(self, store: ShardStore) -> None:
        assert store.counts(0, "label", "length").tolist() == [5, 0, 6, 3]
        assert store.counts(0, "label", "loss_tokens").tolist() == [2, 0, 3, 1]

    def test_sizes_are_summed_over_tasks(self, store: ShardStore) -> None:
        assert store.sizes(0, ("label",)).tolist() == [5, 0, 6, 3]
        assert store.sizes(0, ("label", "rationale/a.b")).tolist() == [10, 0, 12, 6]
        assert store.sizes(0, ("label", "rationale/a.b")).dtype == np.int32


class TestFile:
    def test_ids_and_truth_are_read_as_they_were_written(self, causal: Path) -> None:
        store = ShardStore(causal)
        for row, (reference, entities) in enumerate(TRUTH):
            assert store.text(0, row, "id") == f"id-{row}"
            assert store.text(0, row, "reference") == reference
            found = store.text(0, row, "entities")
            assert (None if found is None else tuple(json.loads(found))) == entities

    def test_the_training_split_keeps_no_text(self, tmp_path: Path) -> None:
        write(tmp_path)
        names = ("input_ids", "spans", "length", "loss_tokens", "cut")
        assert pq.read_schema(shard_path(tmp_path, 0)).names == ["id", *(f"label.{name}" for name in names)]

    def test_a_shard_without_rows(self, tmp_path: Path) -> None:
        write(tmp_path, ids=[], found={"label": columns([])})
        assert ShardStore(tmp_path).sizes(0, ("label",)).tolist() == []

    def test_only_the_shard_is_left_and_a_second_write_replaces_it(self, causal: Path) -> None:
        assert [file.name for file in causal.iterdir()] == ["shard-000000.parquet"]
        write(causal, ids=["a"], found={"label": columns([([5, 6], [1, 2], False)])})
        assert [file.name for file in causal.iterdir()] == ["shard-000000.parquet"]
        assert ShardStore(causal).counts(0, "label", "length").tolist() == [2]

    def test_columns_of_another_length_leave_no_shard(self, tmp_path: Path) -> None:
        with pytest.raises(pa.ArrowInvalid):
            write(tmp_path, ids=IDS[:3])
        assert list(tmp_path.iterdir()) == []

    def test_a_write_that_fails_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_a_killed_writer_is_not_a_shard(self, causal: Path) -> None:
        whole = shard_path(causal, 0).read_bytes()
        (causal / ".shard-000001-17-k3x9").write_bytes(whole[: len(whole) // 2])
        store = ShardStore(causal)
        assert (store.has(0), store.has(1)) == (True, False)
        write(causal, 1)
        assert store.text(1, 3, "id") == "id-3"

    def test_readers_always_see_a_whole_shard(self, tmp_path: Path) -> None:
        """One thread repeatedly writes a shard of 20,000 rows while another reads it."""
        many = columns([([5, 6, 7, 1], [2, 4], False)] * 20_000)
        ids, stop, seen = [str(number) for number in range(20_000)], threading.Event(), set()

        def look() -> None:
            last = False
            while not last:
                last = stop.is_set()  # the last look comes after the last write, however slow this thread is
                if ShardStore(tmp_path).has(0):
                    store = ShardStore(tmp_path)
                    seen.add((len(store.counts(0, "label", "length")), store.text(0, 19_999, "id")))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(5):
                write(tmp_path, ids=ids, found={"label": many})
        finally:
            stop.set()
            thread.join()
        assert seen == {(20_000, "19999")}


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_shards_are_read_as_they_were_encoded(architecture: str, tmp_path: Path) -> None:
    """Every row of a batch of real records is read, and its counts are those of its labels."""
    tokenizer = bpe(tmp_path)
    records = [
        distill("knee " * number, "rash " * (1 + number % 5), "fever" if number % 3 else None)
        for number in range(20)
    ] + [chat("knee", "rash", "fever", "cough")]
    made = Encoder(tokenizer, spec(architecture=architecture)).encode(records)
    write(tmp_path, ids=[str(n) for n in range(21)], found=made, architecture=architecture)
    store = ShardStore(tmp_path)
    for task, found in made.items():
        for row in range(len(records)):
            ids, labels = store.example(0, row, task)
            assert ids.tolist() == ids_of(found, row)
            trained = labels[labels != IGNORED]
            assert store.counts(0, task, "loss_tokens")[row] == len(trained)
            size = len(ids) if architecture == "causal" else len(ids) + len(labels)
            assert store.counts(0, task, "length")[row] == size
            if architecture == "seq2seq":
                assert labels.tolist() == targets_of(found, row)
            elif len(ids):
                assert labels[0] == IGNORED, "the first token is predicted by nothing"
                assert (labels[labels != IGNORED] == ids[labels != IGNORED]).all()
                assert ids[: len(store.prompt(0, row, task))].tolist() == store.prompt(0, row, task).tolist()


class TestStore:
    @pytest.fixture
    def begun(self) -> threading.Semaphore:
        """Return a semaphore that is released whenever reading of a file begins."""
        return threading.Semaphore(0)

    @pytest.fixture
    def reads(self, begun: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return the names of the files that are read completely."""
        seen: list[str] = []

        def watched(path: Path, columns: Any = None) -> Any:
            if columns is None:
                seen.append(path.name[6:12])
                begun.release()
            return shard_table(path, columns)

        monkeypatch.setattr(shard_file, "shard_table", watched)
        return seen

    def fill(self, folder: Path, count: int) -> None:
        for index in range(count):
            write(folder, index, ids=[f"{index}-{row}" for row in range(4)])

    def test_more_shards_than_it_keeps(self, tmp_path: Path, reads: list[str]) -> None:
        self.fill(tmp_path, 5)
        store = ShardStore(tmp_path, keep=2)
        for index in [0, 1, 2, 3, 4, 3, 4, 0, 4, 3]:
            assert store.text(index, 2, "id") == f"{index}-2"
        assert [int(name) for name in reads] == [0, 1, 2, 3, 4, 0, 3], "the least used goes first"

    def test_counts_read_no_ids(self, tmp_path: Path, reads: list[str]) -> None:
        self.fill(tmp_path, 3)
        store = ShardStore(tmp_path, keep=1)
        for index in (0, 1, 2, 0):
            assert store.sizes(index, ("label",)).tolist() == [4, 0, 2, 8]
        assert reads == []

    def test_shards_are_read_ahead(
        self, tmp_path: Path, reads: list[str], begun: threading.Semaphore
    ) -> None:
        self.fill(tmp_path, 3)
        store = ShardStore(tmp_path)
        store.prefetch([2, 0, 7])
        store.prefetch(iter([2, 0]))
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30), "two shards, though nobody has asked for a row"
        assert [store.text(index, 0, "id") for index in (2, 0, 1)] == ["2-0", "0-0", "1-0"]
        assert sorted(reads) == ["000000", "000001", "000002"], "each once, and none that is not there"

    def test_a_shard_that_another_thread_sets_aside_is_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other thread renames it between this one's look at the folder and its reading."""
        self.fill(tmp_path, 1)
        shard_path(tmp_path, 0).write_bytes(b"no Parquet")
        store = ShardStore(tmp_path)
        monkeypatch.setattr(store, "wait", lambda index: None)
        for _ in range(2):
            with pytest.raises(DamagedShardError, match="shard-000000"):
                store.text(0, 0, "id")

    def test_an_error_of_reading_ahead_is_raised_when_the_shard_is_needed(self, tmp_path: Path) -> None:
        self.fill(tmp_path, 2)
        shard_path(tmp_path, 0).write_bytes(b"no Parquet")
        store = ShardStore(tmp_path)
        store.prefetch([0, 1])
        assert store.text(1, 0, "id") == "1-0"
        with pytest.raises(DamagedShardError, match="shard-000000"):
            store.text(0, 0, "id")

    def test_threads_that_need_one_shard_read_it_once(self, tmp_path: Path, reads: list[str]) -> None:
        self.fill(tmp_path, 1)
        store, together = ShardStore(tmp_path), threading.Barrier(4)

        def read() -> None:
            together.wait()
            store.example(0, 0, "label")

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert reads == ["000000"]

    def test_threads_may_read_at_once(self, tmp_path: Path) -> None:
        self.fill(tmp_path, 4)
        store, wrong = ShardStore(tmp_path, keep=1), []

        def read(first: int) -> None:
            for turn in range(100):
                index = (first + turn) % 4
                store.prefetch([(index + 1) % 4])
                ids = store.counts(index, "label", "length").tolist()
                if store.text(index, 1, "id") != f"{index}-1" or ids != [4, 0, 2, 8]:
                    wrong.append(index)

        threads = [threading.Thread(target=read, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_a_kept_shard_costs_little_more_than_its_ids(self, tmp_path: Path) -> None:
        many = columns([(list(range(1000)), [500, 1000], False)] * 400)
        write(tmp_path, ids=[str(number) for number in range(400)], found={"label": many})
        store, before = ShardStore(tmp_path), pa.total_allocated_bytes()
        store.example(0, 0, "label")
        assert pa.total_allocated_bytes() - before < 1.2 * 4 * len(many.input_ids)


class TestDamage:
    def test_no_flipped_bit_changes_the_content(self, causal: Path) -> None:
        """Flip a bit of every byte, and every bit of the footer's length."""
        path, whole = shard_path(causal, 0), shard_path(causal, 0).read_bytes()
        length = range(8 * len(whole) - 64, 8 * len(whole) - 32)
        for bit in [*(8 * byte + byte % 8 for byte in range(len(whole))), *length]:
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(changed))
            assert not is_sound(path), bit
        path.write_bytes(whole)
        assert is_sound(path)

    def test_other_readers_can_read_a_shard_as_parquet(self, causal: Path) -> None:
        assert pq.read_table(shard_path(causal, 0)).column("id").to_pylist() == IDS

    @pytest.mark.parametrize("damage", ["cut", "empty", "old", "pipe", "folder", "zeros"])
    @pytest.mark.parametrize("ask", ["counts", "text"])
    def test_a_damaged_shard_is_named_and_set_aside(self, ask: str, damage: str, causal: Path) -> None:
        path, store = Path(str(shard_path(causal, 0))), ShardStore(causal)
        (causal / MANIFEST).write_text("{}")
        data = path.read_bytes()
        path.unlink()
        if damage == "pipe":
            os.mkfifo(path)
        elif damage == "folder":
            path.mkdir()
        elif damage == "zeros":
            path.symlink_to("/dev/zero")
        elif damage == "old":  # of a version that wrote no hash
            footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            path.write_bytes(data[: footer - 48] + data[footer:])
            assert pq.read_table(path).num_rows == 4
        else:
            path.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
        with pytest.raises(
            DamagedShardError, match=r"shard-000000\.parquet is damaged .* makes the shard again"
        ):
            store.counts(0, "label", "length") if ask == "counts" else store.text(0, 0, "id")
        assert not (causal / MANIFEST).exists(), "the split is not complete any more"
        assert (causal / "shard-000000.parquet.damaged").lstat()
        with pytest.raises(
            RunFailedError, match="makes the shard again"
        ):  # a later reader does not wait for it
            store.wait(0)

    def test_storage_that_does_not_answer_does_not_make_a_shard_damaged(
        self, causal: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any, **__: Any) -> Any:
            raise OSError(116, "Stale file handle")

        monkeypatch.setattr(storage, "read_bounded", away)
        with pytest.raises(OSError, match="Stale"):
            ShardStore(causal).text(0, 0, "id")
        assert shard_path(causal, 0).exists()


class TestWaiting:
    def test_a_shard_that_comes_later_is_waited_for(self, tmp_path: Path) -> None:
        store, found = ShardStore(tmp_path), []
        thread = threading.Thread(target=lambda: found.append(store.text(3, 0, "id")), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "it waits"
        write(tmp_path, 2)
        thread.join(0.2)
        assert thread.is_alive(), "another shard is not the one"
        write(tmp_path, 3)
        thread.join(10)
        assert found == ["id-0"]

    @pytest.mark.parametrize("away", ["folder", "nothing comes", "refused"])
    def test_a_wait_has_an_end_and_says_what_it_waits_for(
        self, away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "train"
        folder.mkdir()
        write(folder)
        store, says = ShardStore(folder, patience_seconds=0.1), "no other shard was written either"
        if away == "folder":  # as when it is unmounted
            folder.rename(tmp_path / "elsewhere")
            says = "its folder is missing"
        elif away == "refused":

            def refused(*_: Any) -> Any:
                raise OSError(116, "Stale file handle")

            monkeypatch.setattr(store, "has", refused)
            monkeypatch.setattr(storage, "sizes", refused)
            says = "its folder is missing or unreadable"
        with pytest.raises(RunFailedError, match=rf"shard-000007\.parquet was not written: {says}"):
            store.text(7, 0, "id")
        assert store.waits_for is None

    def test_shards_that_come_prolong_the_wait(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, left = [0.0], [1, 2, 3, 4]

        def sleep(_: float) -> None:
            clock[0] += 50
            write(tmp_path, left.pop(0))

        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(time, "sleep", sleep)
        write(tmp_path)
        ShardStore(tmp_path, patience_seconds=90).wait(4)  # after 200 s
        assert left == []

    @pytest.mark.parametrize("ask", ["counts", "wait"])
    def test_a_failed_pipeline_ends_the_wait_with_its_reason(self, ask: str, tmp_path: Path) -> None:
        store, said = ShardStore(tmp_path), []

        def wait() -> None:
            try:
                store.counts(0, "label", "length") if ask == "counts" else store.wait(0, poll_seconds=0.01)
            except RunFailedError as error:
                said.append(str(error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        whole = tmp_path / "whole"
        whole.write_text(json.dumps({"reason": "train.jsonl changed after it was indexed"}))
        whole.replace(tmp_path / FAILED)  # at once, as the pipeline does
        thread.join(10)
        assert said == ["the data pipeline failed: train.jsonl changed after it was indexed"]

    def test_an_existing_shard_is_read_after_the_pipeline_failed(self, causal: Path) -> None:
        (causal / FAILED).write_text(json.dumps({"reason": "disk full"}))
        store = ShardStore(causal)
        assert store.text(0, 0, "id") == "id-0"
        with pytest.raises(RunFailedError, match="disk full"):
            store.example(1, 0, "label")
