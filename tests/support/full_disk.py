"""Run inside a mount namespace: a worker loop whose checkpoints are on a small disk that fills up and is freed again.

Arguments: a pickle of the WorkerPlan, and the step after which the disk is freed. Prints one JSON object.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from recorder import Recorder

from medray.train import checkpoint
from medray.train.loop import training

FULL_AFTER = 3


class Filling(Recorder):
    def __init__(self, disk: Path, freed_after: int) -> None:
        super().__init__()
        self._filler, self._freed_after = disk / "filler", freed_after

    def step(self, record: dict[str, Any]) -> None:
        super().step(record)
        if record["step"] == FULL_AFTER:
            with self._filler.open("wb", buffering=0) as stream:
                while True:
                    try:
                        stream.write(bytes(4096))
                    except OSError:
                        break
        if record["step"] == self._freed_after:
            self._filler.unlink()


def main() -> None:
    plan, freed_after = pickle.loads(Path(sys.argv[1]).read_bytes()), int(sys.argv[2])
    disk = Path(plan.run_folder) / "checkpoints"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    recorder, error = Filling(disk, freed_after), ""
    try:
        training.run(plan, recorder)
    except Exception as failure:
        error = str(failure)
    found = {
        "steps": len(recorder.steps),
        "saved": [one.progress.step for one in checkpoint.complete(disk)],
        "messages": [event["text"] for event in recorder.events if event["kind"] == "message"],
        "error": error,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
