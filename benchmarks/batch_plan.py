"""The batch plan over 10,000,000 lengths: seconds and peak memory, each phase in a process of its own.

    .venv/bin/python benchmarks/batch_plan.py [SHARDS]

5,000 shards of 2,000 rows, windows of 8 shards. Lengths are log-normal with a mean near 500, at most 2,048, and lie in
a memory-mapped file that takes the place of token shards. Unpacked: batches of 16 rows. Packed: sequences of 2,048
tokens, 4 a batch, all windows of an epoch made and kept in a folder; then a fresh process finds one step in it.
Packing is compared with the same best fit that scans the rooms of all sequences with NumPy. Memory is the peak of the
resident set since the process began; the kept files are read from a warm page cache.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
from medray.data.batching.packing import best_fit

ROWS, WINDOW, CAPACITY, STEP = 2000, 8, 2048, 500_000


def lengths(shards: int) -> np.ndarray:
    draw = np.random.default_rng(0).lognormal(np.log(500) - 0.245, 0.7, (shards, ROWS))
    return np.clip(draw, 1, CAPACITY).astype(np.int32)


def spec_of(shards: int, **batches: Any) -> PlanSpec:
    return PlanSpec(
        corpora=(Corpus(tuple(range(shards)), (ROWS,) * shards),), seed=0, window_shards=WINDOW, **batches
    )


def phase(name: str, shards: int, folder: Path) -> dict[str, Any]:
    """One phase, in this process; seconds aside from imports, and the process's peak memory in bytes."""
    held = np.load(folder / "lengths.npy", mmap_mode="r")
    began = time.perf_counter()
    found: dict[str, Any] = {}
    step = STEP * shards // 5000
    if name == "unpacked":
        plan = BatchPlan(spec_of(shards, global_batch_size=16), held.__getitem__)
        found["steps"] = plan.steps(1)
        assert plan.batch(step).real == 16
    else:
        spec = spec_of(shards, global_batch_size=4, pack_tokens=CAPACITY)
        plan = BatchPlan(spec, held.__getitem__, folder / "plans")
        if name == "packed":
            found["steps"] = plan.steps(1)
            padding = 1 - int(held.sum(dtype=np.int64)) / (found["steps"] * 4 * CAPACITY)
            found["padding"] = round(padding, 6)
        else:
            assert plan.batch(step).real >= 4
    found["seconds"] = round(time.perf_counter() - began, 3)
    found["peak"] = _peak()
    return found


def _peak() -> int:
    """Bytes; of this process alone, where getrusage would count its parent's memory before the exec."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def fresh(name: str, shards: int, folder: Path) -> dict[str, Any]:
    """A phase in a fresh process."""
    command = [sys.executable, __file__, str(shards), name, str(folder)]
    began = time.perf_counter()
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {**answer, "process": round(time.perf_counter() - began, 2)}


def by_scanning(sizes: np.ndarray, capacity: int) -> int:
    """Sequences that best fit decreasing makes, where every row looks at the rooms of all of them."""
    rooms, made = np.zeros(len(sizes), np.int64), 0
    for size in np.sort(sizes)[::-1].tolist():
        fitting = np.where(rooms[:made] >= size, rooms[:made], capacity + 1)
        place = int(fitting.argmin()) if made else 0
        if not made or fitting[place] > capacity:
            place, made = made, made + 1
            rooms[place] = capacity
        rooms[place] -= size
    return made


def seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    shards = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    if len(sys.argv) > 2:
        print(json.dumps(phase(sys.argv[2], shards, Path(sys.argv[3]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held = lengths(shards)
        np.save(folder / "lengths.npy", held)
        print(f"{held.size:,} lengths, mean {held.mean():.0f}, largest {held.max()}")
        for label in ("unpacked", "packed", "found again"):
            row = fresh(label, shards, folder)
            print(
                f"{label}: {row['seconds']:.2f} s ({row['process']:.1f} s with start and imports), peak "
                f"{row['peak'] / 1e9:.2f} GB"
                + (f", {row['steps']:,} steps" if "steps" in row else "")
                + (f", padding {row['padding']:.4%}" if "padding" in row else "")
            )
        kept = [path.stat().st_size for path in (folder / "plans").rglob("*.npz")]
        print(f"kept: {len(kept)} files, {sum(kept) / 1e6:.0f} MB")
        window = held[:WINDOW].ravel()
        ours, other = (
            seconds(lambda: best_fit(window, CAPACITY)),
            seconds(lambda: by_scanning(window, CAPACITY)),
        )
        assert int(best_fit(window, CAPACITY).max()) + 1 == by_scanning(window, CAPACITY)
        print(
            f"best fit of a window of {window.size:,} rows: {ours * 1e3:.1f} ms; by scanning "
            f"{other * 1e3:.1f} ms ({other / ours:.1f} times as long), the same number of sequences"
        )
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("medray", "numpy"))
    )


if __name__ == "__main__":
    main()
