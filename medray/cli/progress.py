"""Print how many steps a run has saved, or a search in all of its trials: `python -m medray.cli.progress CONFIG`.

slurm/medray.sbatch runs this before it requeues a job. Neither torch nor Ray is imported.
"""

from __future__ import annotations

import re
import sys

from medray import storage
from medray.config import Config, read
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


def saved(config: Config) -> int:
    """Return a number that grows whenever a run, or a trial of a search, has saved a step or ended."""
    run = storage.at(config.run.storage) / config.run.name
    if config.tune is None:
        return newest_step(run)
    from medray.tune.trials import TrialFiles

    trials = TrialFiles(run).read().values()
    return sum(
        newest_step(run.with_name(f"{run.name}.{trial.label}")) if trial.state == "begun" else trial.step + 1
        for trial in trials
    )


if __name__ == "__main__":
    print(saved(read(sys.argv[1])))
