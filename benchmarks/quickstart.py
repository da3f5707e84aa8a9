"""The quickstart as a whole process: seconds, and the peak of the memory of its process tree.

    .venv/bin/python benchmarks/quickstart.py [RUNS]

Memory is the sum of the resident sets of the command and all its descendants, sampled twice a second; pages that
processes share count once for each, so the figure is an upper bound.
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
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def once(storage: Path) -> tuple[float, int, dict[str, object]]:
    """(wall seconds, peak bytes, summary) of one quickstart."""
    command = [
        sys.executable,
        "-m",
        "medray",
        "train",
        "configs/quickstart.yaml",
        f"run.storage={storage}",
        "--json",
    ]
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(root))
            time.sleep(0.5)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
    return time.perf_counter() - began, peak, summary


def _resident(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            found.append(once(Path(folder)))
            seconds, peak, summary = found[-1]
            print(f"{seconds:.1f} s, peak {peak / 1e9:.2f} GB, eval {json.dumps(summary['eval'])}")
            print(f"  seconds: {json.dumps(summary['seconds'])}")
    print(
        f"median of {runs}: {statistics.median(row[0] for row in found):.1f} s, "
        f"largest peak {max(row[1] for row in found) / 1e9:.2f} GB"
    )
    packages = ("medray", "torch", "ray", "deepspeed", "transformers", "peft", "mlflow")
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    )


if __name__ == "__main__":
    main()
