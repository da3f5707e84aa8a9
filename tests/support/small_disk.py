"""A ledger on a disk of 1 MB that fills, or is mounted read-only, and works again; run by `on_a_small_disk`.

python small_disk.py FOLDER SCENARIO        prints one JSON object of what was seen
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from medray.tracking import Ledger, TrackingSpec

OFF = TrackingSpec(False, "", "medray", "run", {}, {}, False)


def on_a_small_disk(folder: Path, scenario: str) -> dict[str, Any]:
    """Runs a scenario with `folder` as a file system of its own, that only the scenario's processes see."""
    mount = f"mount -t tmpfs -o size=1m tmpfs '{folder}' && exec '{sys.executable}' '{__file__}' '{folder}' {scenario}"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "tokens": 100, "seconds": 0.5}


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        for size in (65536, 4096, 1):
            try:
                while stream.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def steps(ledger: Ledger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        ledger.step(record(step))


def messages(ledger: Ledger) -> list[str]:
    return [one["text"] for one in ledger.poll(0) if one["kind"] == "message"]


def opened(disk: Path) -> Ledger:
    ledger = Ledger(str(disk / "run"), OFF)
    ledger.open(resumed_step=0)
    return ledger


def full(disk: Path) -> dict[str, Any]:
    """The disk fills between steps 20 and 21, and has room again after 120."""
    ledger = opened(disk)
    steps(ledger, 1, 20)
    before = ledger.flush()
    filler = fill(disk)
    steps(ledger, 21, 60)
    ledger.evaluation({"step": 60, "metrics": {"loss": 1.0}})
    steps(ledger, 61, 120)
    seen = {"before": before, "while": ledger.flush(), "then": (disk / "run/steps.jsonl").read_text()}
    filler.unlink()
    return seen | {"after": ledger.flush()} | left(disk, ledger)


def torn(disk: Path) -> dict[str, Any]:
    """A ledger is started again on a disk that is full, with half a line from the one before."""
    steps(opened(disk), 1, 20)
    with (disk / "run/steps.jsonl").open("a") as stream:
        stream.write('{"step": 21, "lo')
    filler = fill(disk)
    ledger = Ledger(str(disk / "run"), OFF)
    steps(ledger, 21, 120)
    seen = {"while": ledger.flush()}
    filler.unlink()
    steps(ledger, 121, 121)
    return seen | left(disk, ledger)


def resumed(disk: Path) -> dict[str, Any]:
    """The loop starts again at step 10 while the disk is full, and replays."""
    ledger = opened(disk)
    steps(ledger, 1, 20)
    filler = fill(disk)
    ledger.open(resumed_step=10)
    seen = {"then": (disk / "run/steps.jsonl").read_text()}
    steps(ledger, 11, 150)
    ledger.open(resumed_step=140)
    steps(ledger, 141, 145)
    filler.unlink()
    return seen | {"after": ledger.flush()} | left(disk, ledger)


def read_only(disk: Path) -> dict[str, Any]:
    """The disk is read-only for a while; meanwhile the loop starts again, so a cut waits too."""
    ledger = opened(disk)
    steps(ledger, 1, 20)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    ledger.open(resumed_step=10)
    steps(ledger, 11, 15)
    seen = {"while": ledger.flush()}
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    steps(ledger, 16, 16)
    return seen | {"after": ledger.flush()} | left(disk, ledger)


def closed(disk: Path) -> dict[str, Any]:
    """The disk is still full when the run ends."""
    ledger = opened(disk)
    fill(disk)
    steps(ledger, 1, 3)
    ledger.close({"status": "failed"}, [])
    return left(disk, ledger)


def left(disk: Path, ledger: Ledger) -> dict[str, Any]:
    folder = disk / "run"
    return {
        "messages": messages(ledger),
        "names": sorted(path.name for path in folder.iterdir()),
        "steps": (folder / "steps.jsonl").read_text() if (folder / "steps.jsonl").exists() else None,
        "evals": (folder / "evals.jsonl").read_text() if (folder / "evals.jsonl").exists() else None,
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[2]](Path(sys.argv[1]))))
