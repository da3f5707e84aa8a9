"""In which order a checkpoint comes to be and goes, and what several ranks must agree on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_ranks import RankEngine, Ranks

from medray import storage
from medray.errors import RunFailedError
from medray.train import checkpoint
from medray.train.checkpoint import MANIFEST
from medray.train.checkpoint.state_files import Retries, StateReader, write
from medray.train.checkpoint.writer import CheckpointWriter, WriterOptions
from medray.train.step import Progress

FOREVER = 60.0


def nothing(*_: Any) -> None:
    pass


class Killed(BaseException):
    """Ends the writer's thread as the end of its process would: no handler of `Exception` sees it."""


def writer(
    root: Path,
    engine: RankEngine,
    *,
    keep: int = 9,
    best: str | None = None,
    patience: float = FOREVER,
    before_manifest: Callable[[], None] = nothing,
    written: Callable[[int], None] = nothing,
    troubled: Callable[[str], None] = nothing,
) -> CheckpointWriter:
    options = WriterOptions(keep, best, patience)
    return CheckpointWriter(
        root, engine, options, before_manifest=before_manifest, written=written, troubled=troubled
    )


def save(root: Path, ranks: Ranks, *steps: int, **options: Any) -> None:
    """A start of the workers that writes a checkpoint at each of the steps; weights are the step's number."""

    def work(engine: RankEngine) -> None:
        one = writer(root, engine, **options)
        for step in steps:
            fill(engine, step)
            assert one.save(Progress(step), {}, wait=True)
        one.finish()

    ranks.run(work)


def fill(engine: RankEngine, value: float) -> None:
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.fill_(value)


def resume(root: Path, ranks: Ranks) -> tuple[list[Progress], list[str]]:
    """What each rank resumed from, and what rank 0 was told was skipped."""
    told: list[str] = []

    def work(engine: RankEngine) -> Progress:
        fill(engine, -1)
        return checkpoint.resume(root, engine, told.append, Retries(FOREVER, "", nothing))

    return ranks.run(work), told


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def test_the_ledger_is_flushed_before_the_manifest_and_the_event_comes_after_it(tmp_path: Path) -> None:
    """A manifest without the steps that it counts would leave a gap in steps.jsonl after a kill between the two."""
    order: list[str] = []

    def manifests() -> list[Path]:
        return list(tmp_path.glob(f"*/{MANIFEST}"))

    def flush() -> None:
        assert len(list(tmp_path.glob("*/rank-*.json"))) == 2
        order.append(f"flushed, {len(manifests())} manifests")

    def written(step: int) -> None:
        order.append(f"step {step} is announced, {len(manifests())} manifests")

    save(tmp_path, Ranks(2), 3, before_manifest=flush, written=written)
    assert order == ["flushed, 0 manifests", "step 3 is announced, 1 manifests"]


def test_a_ledger_that_cannot_be_flushed_holds_the_manifest_back(tmp_path: Path) -> None:
    tries: list[int] = []

    def flush() -> None:
        tries.append(len(list(tmp_path.glob(f"*/{MANIFEST}"))))
        raise OSError("the disk is full")

    with pytest.raises(RunFailedError, match="the checkpoint of step 3 could not be written"):
        save(tmp_path, Ranks(1), 3, before_manifest=flush, patience=0.0)
    assert not any(tries)
    assert checkpoint.complete(tmp_path) == []


def test_every_file_is_on_the_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a manifest must not stand beside files that were still in memory."""
    synced, fsync = list[str](), os.fsync

    def looks(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        synced.append(re.sub(r"^\.(.+)\.\d+-\w+$", r"\1", name))  # as storage.write names what it then moves
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", looks)
    save(tmp_path, Ranks(1), 3)
    assert synced == ["rank-00000.safetensors", "rank-00000.json", MANIFEST]
    (folder,) = folders(tmp_path)
    checkpoint.rate(folder, {"loss": 1.0})
    assert synced[3:] == [MANIFEST]


def test_the_older_is_retired_only_after_the_newer_is_whole(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def written(step: int) -> None:
        seen.append([found.progress.step for found in checkpoint.complete(tmp_path)])

    save(tmp_path, Ranks(1), 1, 2, 3, keep=1, written=written)
    assert seen == [[1], [1, 2], [2, 3]]
    assert [found.progress.step for found in checkpoint.complete(tmp_path)] == [3]


def test_one_that_is_retired_loses_its_manifest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two must not leave a manifest beside half of its files."""
    save(tmp_path, Ranks(1), 1, 2)
    (older, newer), remove = folders(tmp_path), storage.remove_tree
    seen: list[tuple[str, list[str]]] = []

    def looks(folder: Path) -> None:
        seen.append((folder.name, sorted(file.name for file in folder.iterdir())))
        remove(folder)

    monkeypatch.setattr(storage, "remove_tree", looks)
    checkpoint.retire(tmp_path, keep=1, best=None)
    assert seen == [(older.name, ["rank-00000.json", "rank-00000.safetensors"])]
    assert folders(tmp_path) == [newer]


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_every_file_of_a_checkpoint_is_compared_with_its_hash(readers: int, tmp_path: Path) -> None:
    """One changed bit in the part of any rank, on as many, fewer and more ranks than wrote it."""
    for damaged in range(3):
        root = tmp_path / str(damaged)
        save(root, Ranks(3), 1, 2)
        file = folders(root)[-1] / f"rank-{damaged:05d}.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        ranks = Ranks(readers)
        found, told = resume(root, ranks)
        assert [one.step for one in found] == [1] * readers, damaged
        assert told == [f"the checkpoint {file.parent.name} is not whole and was skipped"]
        for engine in ranks.engines:
            assert all((parameter == 1).all() for parameter in engine.model.parameters())


def test_a_start_never_writes_into_the_folder_of_another(tmp_path: Path) -> None:
    """The first is killed before its manifest; the second is at the same step, with other weights."""

    def killed() -> None:
        raise Killed

    def first(engine: RankEngine) -> None:
        fill(engine, 7)
        one = writer(tmp_path, engine, before_manifest=killed)
        one.save(Progress(4), {})
        one._join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", nothing)
        Ranks(2).run(first)
    (orphan,) = folders(tmp_path)
    held = {file.name: file.read_bytes() for file in orphan.iterdir()}
    assert len(held) == 4
    there: list[Path] = []
    save(tmp_path, Ranks(2), 4, written=lambda step: there.extend(folders(tmp_path)))
    assert len(there) == 2
    assert orphan in there
    (kept,) = folders(tmp_path)
    assert kept != orphan
    assert {file.name: file.read_bytes() for file in kept.iterdir()}.items().isdisjoint(held.items())
    ranks = Ranks(1)
    resume(tmp_path, ranks)
    assert all((parameter == 4).all() for parameter in ranks.engines[0].model.parameters())


def test_the_part_of_a_rank_that_is_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier start left at this step is not taken for it: rank 1 writes after rank 0 has looked."""
    save(tmp_path, Ranks(2), 4)
    looked, write_mine = threading.Event(), CheckpointWriter._write_mine

    def late(one: CheckpointWriter, folder: Path, held: dict[str, Any]) -> None:
        if one._engine.rank == 1:
            assert looked.wait(FOREVER)
        write_mine(one, folder, held)

    def pauses(patience: Retries, seconds: float, reason: str) -> None:
        looked.set()

    monkeypatch.setattr(CheckpointWriter, "_write_mine", late)
    monkeypatch.setattr(Retries, "pause", pauses)
    save(tmp_path, Ranks(2), 4)
    assert looked.is_set()
    for found in checkpoint.complete(tmp_path):
        assert sorted(found.files) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    resumed, told = resume(tmp_path, Ranks(2))
    assert ([one.step for one in resumed], told) == ([4, 4], [])


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_cannot_write_ends_the_run_on_all_ranks(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 fails at its part, for which rank 0 waits in vain; rank 0 at the manifest, which rank 1 never sees."""
    write_mine = CheckpointWriter._write_mine

    def refuses(*_: Any) -> None:
        raise RuntimeError("refused")  # no OSError: it is not tried again

    def part(one: CheckpointWriter, folder: Path, held: dict[str, Any]) -> None:
        (refuses if one._engine.rank == failing == 1 else write_mine)(one, folder, held)

    monkeypatch.setattr(CheckpointWriter, "_write_mine", part)

    def work(engine: RankEngine) -> str:
        flush = refuses if failing == 0 else nothing
        one = writer(tmp_path, engine, patience=0.5 if failing == 1 else FOREVER, before_manifest=flush)
        one.save(Progress(4), {})
        with pytest.raises(RunFailedError) as caught:
            one.finish()
        return str(caught.value)

    told = Ranks(2).run(work)
    assert told[failing] == "the checkpoint of step 4 could not be written: refused"
    other = "another worker could not write its part" if failing == 0 else "other workers have not written"
    assert other in told[1 - failing]
    assert checkpoint.complete(tmp_path) == []


@pytest.mark.parametrize("slow", [0, 1])
def test_a_checkpoint_is_left_out_on_all_ranks_where_one_is_still_writing(
    slow: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none where it is asked to wait. Ranks that disagreed would write two halves of different steps."""
    go, write_mine = threading.Event(), CheckpointWriter._write_mine

    def part(one: CheckpointWriter, folder: Path, held: dict[str, Any]) -> None:
        if one._engine.rank == slow:
            assert go.wait(FOREVER)
        write_mine(one, folder, held)

    monkeypatch.setattr(CheckpointWriter, "_write_mine", part)

    def work(engine: RankEngine) -> list[bool]:
        one = writer(tmp_path, engine)
        begun = [one.save(Progress(1), {})]
        if engine.rank == 1 and slow == 0:
            one._join()  # it has nothing more to do, and says no all the same
        begun.append(one.save(Progress(2), {}))
        go.set()
        begun.append(one.save(Progress(3), {}, wait=True))
        one.finish()
        return begun

    assert Ranks(2).run(work) == [[True, False, True]] * 2
    assert [found.progress.step for found in checkpoint.complete(tmp_path)] == [1, 3]


def test_what_is_written_is_the_state_at_the_call_and_not_what_training_made_of_it(tmp_path: Path) -> None:
    go = threading.Event()
    ranks, progress = Ranks(1), Progress(1, samples=5)
    (engine,) = ranks.engines
    fill(engine, 1)
    one = writer(tmp_path, engine, before_manifest=lambda: bool(go.wait(FOREVER)) and None)
    one.save(progress, {})
    fill(engine, 2)
    progress.samples = 10
    go.set()
    one.finish()
    found, _ = resume(tmp_path, ranks)
    assert found == [Progress(1, samples=5)]
    assert all((parameter == 1).all() for parameter in engine.model.parameters())


def test_all_ranks_resume_what_rank_0_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank may have listed storage before the newest was there."""
    save(tmp_path, Ranks(2), 1, 2)
    listed = checkpoint._folders
    ranks, late = Ranks(2), threading.local()

    def lists(root: Path) -> list[Any]:
        return listed(root)[: 1 if getattr(late, "is", False) else None]

    monkeypatch.setattr(checkpoint, "_folders", lists)

    def work(engine: RankEngine) -> int:
        late.__dict__["is"] = engine.rank == 1
        return checkpoint.resume(tmp_path, engine, nothing, Retries(FOREVER, "", nothing)).step

    assert ranks.run(work) == [2, 2]


class TestPieces:
    """Elements of one parameter out of several files: each of them exactly once."""

    @staticmethod
    def files(folder: Path, *pieces: tuple[int, int]) -> list[Any]:
        made: list[Any] = []
        for number, (start, stop) in enumerate(pieces):
            made.append(folder / f"{number}.safetensors")
            write(made[-1], {"weight/w": (start, torch.arange(start, stop, dtype=torch.float32))})
        return made

    @pytest.mark.parametrize(
        "pieces", [[(0, 10)], [(0, 4), (4, 10)], [(7, 10), (0, 3), (3, 7)], [(0, 5), (5, 5), (5, 10)]]
    )
    def test_pieces_in_any_order_make_the_whole(self, pieces: list[tuple[int, int]], tmp_path: Path) -> None:
        with StateReader(self.files(tmp_path, *pieces)) as reader:
            assert reader.read("weight", "w", 0, 10).tolist() == list(range(10))
            assert reader.read("weight", "w", 2, 8).tolist() == list(range(2, 8))

    @pytest.mark.parametrize(
        "pieces",
        [
            [(0, 10), (0, 10)],  # a file twice
            [(0, 6), (4, 10)],
            [(0, 4), (5, 10)],
            [(0, 6), (4, 8)],  # as many values as there should be: two are there twice, two not at all
            [(1, 10)],
            [(0, 9)],
            [(0, 10), (3, 4)],
            [],
        ],
    )
    def test_overlaps_and_gaps_are_refused(self, pieces: list[tuple[int, int]], tmp_path: Path) -> None:
        with (
            StateReader(self.files(tmp_path, *pieces)) as reader,
            pytest.raises(RunFailedError, match="weight w: it is of another model or adapter"),
        ):
            reader.read("weight", "w", 0, 10)


def test_a_rating_that_comes_later_keeps_the_rest_of_the_manifest(tmp_path: Path) -> None:
    save(tmp_path, Ranks(1), 3)
    (before,) = checkpoint.complete(tmp_path)
    checkpoint.rate(before.folder, {"loss": 2.0})
    (after,) = checkpoint.complete(tmp_path)
    assert after.metrics == {"loss": 2.0}
    assert (after.progress, after.files, after.optimizer_step) == (
        before.progress,
        before.files,
        before.optimizer_step,
    )
    shutil.rmtree(before.folder)
    checkpoint.rate(before.folder, {"loss": 1.0})  # retired meanwhile
    assert folders(tmp_path) == []


def test_the_manifest_says_what_is_on_storage(tmp_path: Path) -> None:
    """Sizes and hashes are those of independent reads."""
    save(tmp_path, Ranks(2), 3)
    (folder,) = folders(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["world_size"] == 2
    for name, file in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
