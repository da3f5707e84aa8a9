"""Seconds to the first optimizer step: from the allocation of two SLURM nodes, and from a cold local start.

    .venv/bin/python benchmarks/slurm_start.py [--pairs 3]

Root starts a SLURM of two nodes in namespaces of this machine (tests/support/slurm_cluster.py). The two take turns, so that a
machine that others use is as busy for one as for the other; medians of all turns. Both train the same 0.1M model with two
workers, and make the tokenizer and shards each time. All processes of two nodes share this machine's cores, which a cluster's
do not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from slurm_cluster import Slurm, absent, slurm_cluster  # noqa: E402

CONFIG = """
run: {storage: runs, name: start}
model: {name: null, init: random, preset: llama-tiny}
data: {dataset: clinic, tokenizer: train, vocab_size: 400}
train: {max_steps: 2, global_batch_size: 8, micro_batch_size: 2, precision: fp32}
cluster: {workers: 2, threads_per_worker: 1}
eval: {metrics: [], at_start: false}
"""


def write(folder: Path) -> Path:
    folder.mkdir()
    (folder / "run.yaml").write_text(CONFIG)
    return folder / "run.yaml"


def first_step(folder: Path, alive: object) -> float:
    """Time of day of the first line of steps.jsonl."""
    while not (steps := folder / "runs" / "start" / "steps.jsonl").exists():
        if not alive():  # type: ignore[operator]
            raise SystemExit(f"ended before its first step: {folder}")
        time.sleep(0.05)
    return steps.stat().st_ctime if steps.stat().st_size else time.time()


def local(folder: Path) -> float:
    config = write(folder)
    began = time.time()
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "medray", "train", config, "cluster.cpus_per_worker=0.5"],
            stdout=log,
            stderr=log,
        )
    seconds = first_step(folder, lambda: run.poll() is None) - began
    if run.wait():
        raise SystemExit((folder / "log").read_text())
    return seconds


def on_slurm(slurm: Slurm, folder: Path) -> float:
    config = write(folder)
    words = [
        "cluster.nodes=2",
        "cluster.cpus_per_worker=1",
        "launch.slurm.cpus_per_node=2",
        "launch.env=[PYTHONPATH]",
    ]
    said = slurm.run(sys.executable, "-m", "medray", "launch", "slurm", str(config), *words).stderr
    job = said.split("job ")[1].split()[0]
    came = first_step(folder, lambda: slurm.job(job)["JobState"] in ("PENDING", "RUNNING"))
    ended = slurm.ended(job)
    if ended["JobState"] != "COMPLETED":
        raise SystemExit(next(folder.rglob("slurm-*.log")).read_text())
    return came - datetime.fromisoformat(ended["StartTime"]).timestamp()  # whole seconds: up to one too many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    if reason := absent():
        raise SystemExit(reason)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("RAY_ADDRESS", None)
    found: dict[str, list[float]] = {"cold local start": [], "two SLURM nodes": []}
    with tempfile.TemporaryDirectory() as name, slurm_cluster() as slurm:
        for turn in range(pairs + 1):
            times = (local(Path(name, f"local-{turn}")), on_slurm(slurm, Path(name, f"slurm-{turn}")))
            load = os.getloadavg()[0]
            print(f"local {times[0]:.1f} s, two SLURM nodes {times[1]:.1f} s, load {load:.1f}", flush=True)
            if turn:  # the first fills the disk's cache
                for who, seconds in zip(found, times, strict=True):
                    found[who].append(seconds)
    base = statistics.median(found["cold local start"])
    for who, seconds_of in found.items():
        median = statistics.median(seconds_of)
        print(f"  {who:<18} median {median:.1f} s, {median / base:.2f} times the local start")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch"))
    print(f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
