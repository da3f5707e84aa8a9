"""CPU time of answers that train nothing (help, a wrong config), as seconds and as a multiple of a bare Python's start.

    .venv/bin/python benchmarks/startup.py [RUNS]

The commands take turns, so that a machine that others use is as busy for one as for the next; medians of all turns.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEDRAY = [sys.executable, "-m", "medray"]
COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], 0),
    "medray --help": ([*MEDRAY, "--help"], 0),
    "medray train, a wrong key in the file": ([*MEDRAY, "train", "wrong.yaml"], 2),
    "medray train, a wrong key in the command": ([*MEDRAY, "train", "sound.yaml", "train.x=1"], 2),
}


def cpu_seconds(command: list[str], code: int, folder: str) -> float:
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == code, command
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "wrong.yaml").write_text("train: {epoch: 3}\n")
        Path(folder, "sound.yaml").write_text(
            "data: {dataset: clinic, tokenizer: train}\nmodel: {init: random, preset: t5-tiny}\n"
        )
        turns = [
            {name: cpu_seconds(*what, folder) for name, what in COMMANDS.items()} for _ in range(runs + 1)
        ][1:]  # the first writes .pyc files and fills the disk's cache
    bare = statistics.median(turn["python -c pass"] for turn in turns)
    for name in COMMANDS:
        seconds = statistics.median(turn[name] for turn in turns)
        print(f"  {name:<42} {seconds:.3f} s of CPU, {seconds / bare:.1f} times a bare Python's")
    print(
        f"{platform.platform()}, Python {platform.python_version()}, medray {importlib.metadata.version('medray')}"
    )


if __name__ == "__main__":
    main()
