"""Arrangements depend on sizes, are kept as files and found again, and are made again if a file is bad."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grids
import numpy as np
import pytest

from medray.data.batching.batch_plan import Batch, BatchPlan, Corpus, PlanSpec

CORPORA = (Corpus(tuple(range(7)), (40, 40, 0, 40, 13, 40, 40)), Corpus((7, 8), (40, 21)))
SPECS = {
    "packed": PlanSpec(corpora=CORPORA, seed=3, window_shards=2, global_batch_size=2, pack_tokens=100),
    "tokens": PlanSpec(
        corpora=CORPORA, seed=3, window_shards=2, global_batch_tokens=300, length_buckets=True
    ),
    "packed to tokens": PlanSpec(
        corpora=CORPORA, seed=3, window_shards=2, global_batch_tokens=300, pack_tokens=100
    ),
    "buckets": PlanSpec(corpora=CORPORA, seed=3, window_shards=2, global_batch_size=7, length_buckets=True),
    "weighted": PlanSpec(
        corpora=tuple(
            replace(corpus, weight=weight) for corpus, weight in zip(CORPORA, (0.7, 0.3), strict=True)
        ),
        seed=3,
        window_shards=2,
        global_batch_size=2,
        pack_tokens=100,
    ),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
a_spec = pytest.mark.parametrize("spec", grids.first(1, SPECS.values()), ids=SPECS)  # in `make test`


def sizes(shard: int) -> np.ndarray:
    return np.random.default_rng(shard).integers(0, 110, 40, np.int32)


def first_shard_only(spec: PlanSpec) -> Callable[[int], np.ndarray]:
    """Return the sizes of the one shard that names the folder; any other shard is an error."""
    first = int(BatchPlan(spec, sizes).shard_order()[0])

    def found(shard: int) -> np.ndarray:
        assert shard == first, "calculated again, though it was kept"
        return sizes(shard)

    return found


def content(batch: Batch) -> tuple[int, bytes, bytes, bytes]:
    return batch.epoch, batch.shards.tobytes(), batch.rows.tobytes(), batch.ends.tobytes()


def walk(plan: BatchPlan, epochs: int = 2) -> list[tuple[int, bytes, bytes, bytes]]:
    return [content(plan.batch(step)) for step in range(plan.steps(epochs))]


def pairs(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))


@each_spec
def test_a_restart_finds_everything_in_files(spec: PlanSpec, tmp_path: Path) -> None:
    made = walk(BatchPlan(spec, sizes, tmp_path))
    assert made == walk(BatchPlan(spec, sizes))
    again = BatchPlan(spec, first_shard_only(spec), tmp_path)
    assert walk(again) == made
    assert again.epoch(len(made) - 1) == BatchPlan(spec, sizes).epoch(len(made) - 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npz"]


def test_a_late_step_reads_the_counts_and_one_window(tmp_path: Path) -> None:
    spec = SPECS["packed"]
    whole = BatchPlan(spec, sizes, tmp_path)
    last = whole.steps(1) - 1
    expected = content(whole.batch(last))
    for window in sorted(tmp_path.rglob("epoch-00000-window-*.npz"))[:-2]:
        window.unlink()
    assert content(BatchPlan(spec, first_shard_only(spec), tmp_path).batch(last)) == expected


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Change a byte in the middle of the arrays, so that the archive's checksum differs."""
    held = bytearray(path.read_bytes())
    held[len(held) // 3] ^= 255
    path.write_bytes(bytes(held))


class Trap:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def pickled(path: Path) -> None:
    trap = np.array([Trap(path.with_suffix(".trap"))], object)
    np.savez(path, order=trap, starts=trap, allow_pickle=True)


def other_arrays(path: Path) -> None:
    np.savez(path, something=np.ones(3, np.int32))


def other_rows(path: Path) -> None:
    """Write a valid archive of a different window."""
    one = np.ones(1, np.int32)
    np.savez(path, order=one - 1, sequence_ends=one, unit_ends=one, starts=np.zeros(1, np.int64))


def doubled_row(path: Path) -> None:
    with np.load(path) as archive:
        held = dict(archive)
    for name in {"order", "starts"} & set(held):
        held[name][-1] = held[name][0]
    np.savez(path, **held)


DAMAGES = [truncate, empty, flip, pickled, other_arrays, other_rows, doubled_row, os.unlink]


@a_spec
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_made_again(spec: PlanSpec, damage: Callable[[Path], None], tmp_path: Path) -> None:
    made = walk(BatchPlan(spec, sizes, tmp_path))
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) >= 4
    for path in files:
        damage(path)
    assert walk(BatchPlan(spec, sizes, tmp_path)) == made
    assert sorted(path for path in tmp_path.rglob("epoch-*")) == files
    assert walk(BatchPlan(spec, first_shard_only(spec), tmp_path)) == made, "the files are whole again"


@each_spec
def test_plans_do_not_find_each_others_files(spec: PlanSpec, tmp_path: Path) -> None:
    """Plans differ by seed, row count, or sizes of the same shards, as in a run with other tasks."""

    def doubled(shard: int) -> np.ndarray:
        return sizes(shard) * 2

    walk(BatchPlan(spec, sizes, tmp_path))
    for other in (
        replace(spec, seed=4),
        replace(spec, corpora=(replace(CORPORA[0], weight=spec.corpora[0].weight),)),
    ):
        assert walk(BatchPlan(other, sizes, tmp_path)) == walk(BatchPlan(other, sizes))
    assert walk(BatchPlan(spec, doubled, tmp_path)) == walk(BatchPlan(spec, doubled))
    assert len(list(tmp_path.iterdir())) == 4


@a_spec
def test_concurrent_plans_make_the_same_files(spec: PlanSpec, tmp_path: Path) -> None:
    """Use eight plans on one folder, and eight threads on one plan, each from a different step on."""
    expected = walk(BatchPlan(spec, sizes))
    shared = BatchPlan(spec, sizes, tmp_path / "shared")

    def ask(number: int, plan: BatchPlan) -> bool:
        steps = [*range(number, len(expected)), *range(number)]
        return all(content(plan.batch(step)) == expected[step] for step in steps)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, n, BatchPlan(spec, sizes, tmp_path / "own")) for n in range(8)]
        asked += [pool.submit(ask, n, shared) for n in range(8)]
        assert all(found.result() for found in asked)
    assert walk(BatchPlan(spec, first_shard_only(spec), tmp_path / "own")) == expected


CHILD = """
import hashlib, sys
import numpy as np
from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
plan = BatchPlan(eval(sys.argv[1]), lambda shard: np.random.default_rng(shard).integers(0, 110, 40, np.int32))
found = hashlib.sha256()
for step in range(plan.steps(1)):
    batch = plan.batch(step)
    found.update(batch.shards.tobytes() + batch.rows.tobytes() + batch.ends.tobytes())
print(found.hexdigest())
"""


@a_spec
def test_another_process_makes_the_same_plan(spec: PlanSpec) -> None:
    def once(hash_seed: str) -> str:
        command = [sys.executable, "-W", "error", "-c", CHILD, repr(spec)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert len({once("1"), once("2")}) == 1


def test_buckets_change_no_count_and_group_similar_lengths() -> None:
    corpus = Corpus(tuple(range(8)), (125,) * 8)
    lengths = {shard: np.random.default_rng(shard).integers(10, 500, 125, np.int32) for shard in range(8)}

    def padding(buckets: bool) -> float:
        found = BatchPlan(
            PlanSpec(
                corpora=(corpus,), seed=1, window_shards=8, global_batch_size=10, length_buckets=buckets
            ),
            lengths.__getitem__,
        )
        assert found.steps(1) == 100
        rows = [[int(lengths[s][r]) for s, r in pairs(found.batch(step))] for step in range(100)]
        means = [np.mean(row) for row in rows]
        assert abs(np.corrcoef(means, range(100))[0, 1]) < 0.3, "lengths do not run up or down"
        return 1 - sum(map(sum, rows)) / sum(max(row) * len(row) for row in rows)

    assert padding(buckets=True) < 0.02
    assert padding(buckets=False) > 0.3


def test_packed_lengths_do_not_decrease() -> None:
    draw = np.random.default_rng(0)
    lengths = {shard: np.clip(draw.lognormal(6, 0.7, 500), 1, 2048).astype(np.int32) for shard in range(2)}
    spec = PlanSpec(
        corpora=(Corpus((0, 1), (500, 500)),), seed=0, window_shards=2, global_batch_size=4, pack_tokens=2048
    )
    found = BatchPlan(spec, lengths.__getitem__)
    batches = [found.batch(step) for step in range(found.steps(1))]
    rows = [batch.real for batch in batches]
    assert abs(np.corrcoef(rows, range(len(rows)))[0, 1]) < 0.3
    firsts = [int(lengths[b.shards[i]][b.rows[i]]) for b in batches for i in [0, *b.ends[:-1]]]
    lasts = [int(lengths[b.shards[i - 1]][b.rows[i - 1]]) for b in batches for i in b.ends]
    assert 0.8 < np.mean(firsts) / np.mean(lasts) < 1.25, "nor do they within a sequence"
