"""Print the step of a run's newest complete checkpoint, or 0 if it has none: `python -m medray.cli.progress CONFIG`.

slurm/medray.sbatch runs this before it requeues a job. Neither torch nor Ray is imported.
"""

from __future__ import annotations

import re
import sys

from medray import storage
from medray.config import read
from medray.storage import StoragePath

_CHECKPOINT = re.compile(r"step-(\d+)-[0-9a-f]+")


def newest_step(run: StoragePath) -> int:
    """Return the step of the newest complete checkpoint of a run, which is the newest with a manifest; 0 if there is
    none.
    """
    steps = [0]
    for folder in (run / "checkpoints").glob("step-*"):
        found = _CHECKPOINT.fullmatch(folder.name)
        if found and (folder / "manifest.json").is_file():
            steps.append(int(found[1]))
    return max(steps)


if __name__ == "__main__":
    config = read(sys.argv[1])
    print(newest_step(storage.at(config.run.storage) / config.run.name))
