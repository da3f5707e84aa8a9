"""Peak memory of every process of a run, by its role, with 100,000 against 1,000,000 simulated rows.

    .venv/bin/python benchmarks/data_memory.py [SMALL] [LARGE]

For each size `medray data prepare` writes all token shards, then `medray train` makes 200 steps with a tiny random llama
on them, both on a local Ray cluster of their own. The rows are small consultations of the simulated clinic, the
tokenizer is trained on all of them. Twice a second the memory of all processes of the command is read. "USS" is what
a process alone has mapped. "own" is its proportional share of anonymous pages and files: shared memory, which is Ray's
object store, is left out of it and stands apart as the sum over all processes.
A role is the name that Ray gives a process while it works; an idle process keeps the role that it had. Of a role with
several processes the largest counts. Roles whose peaks are below 10 MB in both are left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

TARGET, STEPS, SAMPLE_SECONDS, PROGRESS_SECONDS = 1.5, 200, 0.5, 15.0
SHOWN_BYTES = 10e6
COMMANDS = ("data prepare", "train")
CONFIG = """
run: {{name: memory, storage: runs}}
model: {{name: null, init: random, preset: llama-tiny}}
data:
  dataset: clinic
  clinic: {{size: small, train_rows: {rows}, validation_rows: 0}}
  tokenizer: train
  vocab_size: 1024
method: {{name: sft}}
train: {{max_steps: {steps}, global_batch_size: 8}}
eval: {{at_start: false, generation: {{rows: 0}}}}
cluster: {{workers: 1}}
"""
# What a role is called here, by the beginning of Ray's name for the process.
ROLES = {
    "Pipeline": "pipeline actor",
    "TrainController": "train controller",
    "RayTrainWorker": "train worker",
    "Ledger": "ledger",
    "Map": "index and encode tasks",
}
SYSTEM = ("raylet", "gcs_server")


class Peaks:
    """Largest bytes of each role, over all samples of one command. store: shared memory of all processes together."""

    def __init__(self, root: psutil.Process) -> None:
        self.root, self.roles = root, {root.pid: "driver"}
        self.uss: dict[str, int] = {}
        self.own: dict[str, int] = {}
        self.store = self.total = 0

    def sample(self) -> None:
        total = store = 0
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                role = self._role(process)
                uss, own, shared = memory(process.pid)
            except (psutil.Error, OSError, KeyError):
                continue  # it has ended meanwhile
            self.uss[role] = max(self.uss.get(role, 0), uss)
            self.own[role] = max(self.own.get(role, 0), own)
            total, store = total + own + shared, store + shared
        self.total, self.store = max(self.total, total), max(self.store, store)

    def _role(self, process: psutil.Process) -> str:
        words = " ".join(process.cmdline()).strip() or process.name()
        if process.pid == self.root.pid:
            return "driver"
        if words.startswith("ray::"):
            named = words.removeprefix("ray::").removeprefix("_")
            if not named.startswith("IDLE"):
                known = (role for start, role in ROLES.items() if named.lower().startswith(start.lower()))
                self.roles[process.pid] = next(known, f"Ray: {named.split('.')[0].split('(')[0].split()[0]}")
            return self.roles.get(process.pid, "Ray: idle from the start")
        first = Path(words.split()[0]).name
        return f"Ray: {first}" if first in SYSTEM else "Ray: its agents and monitors"


def memory(pid: int) -> tuple[int, int, int]:
    """(unique, own, shared) bytes of a process. unique: mapped by it alone, as psutil's USS. own: its share of anonymous
    pages and files. shared: its share of shared memory."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        found[name] = int(value.split()[0]) * 1024
    unique = found["Private_Clean"] + found["Private_Dirty"] + found["Private_Hugetlb"]
    return unique, found["Pss_Anon"] + found["Pss_File"], found["Pss_Shmem"]


def measured(command: str, config: Path, log: Path) -> tuple[Peaks, float, dict[str, Any]]:
    """Peaks, seconds and the JSON that the command prints."""
    words = [sys.executable, "-m", "medray", *command.split(), str(config), "--json"]
    began = shown = time.perf_counter()
    with (
        log.open("w") as messages,
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=messages, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        ) as process,
    ):
        peaks = Peaks(psutil.Process(process.pid))
        try:
            while process.poll() is None:
                peaks.sample()
                now = time.perf_counter()
                if now - shown > PROGRESS_SECONDS:
                    shown = now
                    parts = ", ".join(f"{role} {held / 1e6:.0f} MB" for role, held in peaks.own.items())
                    written = sum(1 for _ in config.parent.rglob("shard-*.parquet"))
                    print(
                        f"  {command}: {now - began:.0f} s, {written:,} shards written; {parts}",
                        file=sys.stderr,
                    )
                time.sleep(SAMPLE_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"medray {command} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return peaks, time.perf_counter() - began, json.loads(printed)


def of_size(rows: int) -> dict[str, Peaks]:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "memory.yaml"
        config.write_text(CONFIG.format(rows=rows, steps=STEPS))
        found = {}
        for command in COMMANDS:
            peaks, seconds, summary = measured(command, config, Path(name) / "log.txt")
            found[command] = peaks
            steps = summary["steps"] if command == "train" else None
            shards = sum(1 for _ in Path(name).rglob("shard-*.parquet"))
            print(
                f"{rows:,} rows, medray {command}: {seconds:.0f} s, {shards:,} shards"
                + (f", {steps} steps" if steps else "")
                + f"; all processes together {peaks.total / 1e9:.2f} GB, object store {peaks.store / 1e6:.1f} MB",
                flush=True,
            )
    return found


def compared(small: Peaks, large: Peaks) -> tuple[float, str]:
    """Prints a line a role; returns the largest ratio of own memory and whose it is."""
    worst = (0.0, "")
    for role in sorted({*small.own, *large.own}):
        if role not in small.own or role not in large.own:
            print(f"  {role}: seen with one of the sizes alone")
            continue
        if max(small.own[role], large.own[role]) < SHOWN_BYTES:
            continue
        ratio = large.own[role] / small.own[role]
        print(
            f"  {role:28} own {small.own[role] / 1e6:6.0f} and {large.own[role] / 1e6:6.0f} MB, ratio {ratio:.2f}; "
            f"USS {small.uss[role] / 1e6:6.0f} and {large.uss[role] / 1e6:6.0f} MB"
        )
        worst = max(worst, (ratio, role))
    return worst


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:3]]
    small, large = (*sizes, *(100_000, 1_000_000)[len(sizes) :])
    found = {rows: of_size(rows) for rows in (small, large)}
    for command in COMMANDS:
        print(f"medray {command}, peak a process with {small:,} and {large:,} rows:")
        ratio, role = compared(found[small][command], found[large][command])
        print(f"  the largest ratio: {ratio:.2f}, {role} (target {TARGET})", flush=True)
    packages = ("medray", "ray", "torch", "pyarrow", "tokenizers", "transformers")
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    )


if __name__ == "__main__":
    main()
