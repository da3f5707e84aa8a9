"""The order in which a checkpoint is written and deleted, and what several ranks must agree on."""

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
from medray.train.loop.step import Progress

FOREVER = 60.0


def nothing(*_: Any) -> None:
    pass


class Killed(BaseException):
    """The end of the writer's thread, like the end of its process: no handler of `Exception` sees it."""


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
    """Write a checkpoint at each step, as one start of the workers does. All weights equal the step's number."""

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
    """Resume on all ranks; return the step of each rank and the messages to rank 0 about skipped checkpoints."""
    told: list[str] = []

    def work(engine: RankEngine) -> Progress:
        fill(engine, -1)
        return checkpoint.resume(root, engine, told.append, Retries(FOREVER, "", nothing))

    return ranks.run(work), told


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def test_the_ledger_is_flushed_before_the_manifest_and_the_event_comes_after_it(tmp_path: Path) -> None:
    """Avoid a gap in steps.jsonl after a kill: a manifest must not count steps that are not on disk yet."""
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


def test_the_manifest_waits_until_the_ledger_is_flushed(tmp_path: Path) -> None:
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
    """Avoid a manifest, after a power cut, whose files were still in memory."""
    synced, fsync = list[str](), os.fsync

    def looks(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        synced.append(
            re.sub(r"^\.(.+)\.\d+-\w+$", r"\1", name)
        )  # storage.write writes to this name, then moves the file
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", looks)
    save(tmp_path, Ranks(1), 3)
    assert synced == ["rank-00000.safetensors", "rank-00000.json", MANIFEST]
    (folder,) = folders(tmp_path)
    checkpoint.rate(folder, {"loss": 1.0})
    assert synced[3:] == [MANIFEST]


def test_the_older_is_retired_only_after_the_newer_is_complete(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def written(step: int) -> None:
        seen.append([found.progress.step for found in checkpoint.complete(tmp_path)])

    save(tmp_path, Ranks(1), 1, 2, 3, keep=1, written=written)
    assert seen == [[1], [1, 2], [2, 3]]
    assert [found.progress.step for found in checkpoint.complete(tmp_path)] == [3]


def test_a_retired_checkpoint_loses_its_manifest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Avoid a manifest with half of its files after a kill."""
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
    """Change one bit in the file of any rank; read on the same number of ranks, on fewer and on more."""
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
        assert told == [f"the checkpoint {file.parent.name} is incomplete or damaged and was skipped"]
        for engine in ranks.engines:
            assert all((parameter == 1).all() for parameter in engine.model.parameters())


def test_a_start_never_writes_into_the_folder_of_another(tmp_path: Path) -> None:
    """Kill the first start before its manifest; the second is at the same step, with different weights."""

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


def test_the_manifest_waits_for_the_file_of_a_late_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ignore the files of an earlier start at this step: rank 1 writes after rank 0 has looked."""
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
    """Let rank 1 fail at its file, for which rank 0 waits; let rank 0 fail at the manifest, which rank 1 never sees."""
    write_mine = CheckpointWriter._write_mine

    def refuses(*_: Any) -> None:
        raise RuntimeError("refused")  # not an OSError, so it is not retried

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
    other = "another worker could not write its file" if failing == 0 else "other workers have not written"
    assert other in told[1 - failing]
    assert checkpoint.complete(tmp_path) == []


@pytest.mark.parametrize("slow", [0, 1])
def test_all_ranks_skip_a_checkpoint_while_one_is_still_writing(
    slow: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skip none with `wait`. Ranks that disagreed would write two halves of different steps."""
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
            one._join()  # this rank has finished writing, and must skip too
        begun.append(one.save(Progress(2), {}))
        go.set()
        begun.append(one.save(Progress(3), {}, wait=True))
        one.finish()
        return begun

    assert Ranks(2).run(work) == [[True, False, True]] * 2
    assert [found.progress.step for found in checkpoint.complete(tmp_path)] == [1, 3]


def test_the_state_at_the_call_is_written_although_training_changes_it(tmp_path: Path) -> None:
    go = threading.Event()
    ranks, progress = Ranks(1), Progress(1, samples=5)
    (engine,) = ranks.engines
    fill(engine, 1)

    def wait() -> None:
        go.wait(FOREVER)

    one = writer(tmp_path, engine, before_manifest=wait)
    one.save(progress, {})
    fill(engine, 2)
    progress.samples = 10
    go.set()
    one.finish()
    found, _ = resume(tmp_path, ranks)
    assert found == [Progress(1, samples=5)]
    assert all((parameter == 1).all() for parameter in engine.model.parameters())


def test_all_ranks_resume_what_rank_0_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another rank list storage before the newest checkpoint exists."""
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
    """Reading the elements of one parameter from several files, each exactly once."""

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
            [(0, 10), (0, 10)],  # the same file twice
            [(0, 6), (4, 10)],
            [(0, 4), (5, 10)],
            [(0, 6), (4, 8)],  # the right number of values: two exist twice, two are missing
            [(1, 10)],
            [(0, 9)],
            [(0, 10), (3, 4)],
            [],
        ],
    )
    def test_overlaps_and_gaps_are_refused(self, pieces: list[tuple[int, int]], tmp_path: Path) -> None:
        with (
            StateReader(self.files(tmp_path, *pieces)) as reader,
            pytest.raises(RunFailedError, match="weight w: it belongs to a different model or adapter"),
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
    shutil.rmtree(str(before.folder))
    checkpoint.rate(before.folder, {"loss": 1.0})  # retired meanwhile
    assert folders(tmp_path) == []


def test_the_manifest_says_what_is_on_storage(tmp_path: Path) -> None:
    """Compare sizes and hashes with those of independent reads."""
    save(tmp_path, Ranks(2), 3)
    (folder,) = folders(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["world_size"] == 2
    for name, file in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
