"""Configurations that a search sees for the same number of training tokens, with ASHA and without.

    .venv/bin/python benchmarks/early_stopping.py [--trials 6] [--folder FOLDER]

A tiny Llama from random weights on the simulated clinic; the learning rate is drawn from 1e-6 to 1e-1. First a random search
of all its trials to their ends, which gives the budget of tokens. Then ASHA over the same draws and more: how many it has
begun when their tokens reach the budget, in the order of their numbers, and the best loss among those. Both searches leave
their folders, so a second start prints the numbers again. The aim is at least 1.5 times as many configurations.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MORE = 3  # times as many trials for ASHA, so that it does not run out of them
CONFIG = """
run: {{name: {scheduler}, storage: runs, seed: 1}}
model: {{preset: llama-tiny, init: random}}
data: {{dataset: clinic, tokenizer: train, max_input_tokens: 64, max_label_tokens: 16}}
train: {{max_steps: 200, global_batch_size: 4, precision: fp32, save_every_steps: 200}}
eval: {{metrics: [], every_steps: 20, at_start: false}}
cluster: {{workers: 1}}
tracking: {{enabled: false}}
tune:
  space: {{train.optimizer.lr: {{loguniform: [1.0e-6, 1.0e-1]}}}}
  trials: {trials}
  scheduler: {scheduler}
  keep_exports: 1
"""


def search(folder: Path, scheduler: str, trials: int) -> list[dict[str, Any]]:
    """Run a search to its end, and return its trials in order."""
    file = folder / f"{scheduler}.yaml"
    file.write_text(CONFIG.format(scheduler=scheduler, trials=trials))
    subprocess.run([sys.executable, "-m", "medray", "tune", str(file)], check=True)
    summary = json.loads((folder / "runs" / scheduler / "summary.json").read_text())
    found: list[dict[str, Any]] = summary["search"]["trials"]
    return found


def within(trials: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Return the trials that were begun before the tokens of those before them reached the budget."""
    seen, used = [], 0
    for trial in trials:
        if used >= budget:
            break
        seen.append(trial)
        used += trial["tokens"]
    return seen


def best(trials: list[dict[str, Any]]) -> float:
    return float(min(trial["value"] for trial in trials if trial["state"] == "done"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    plain = search(folder, "none", arguments.trials)
    budget = sum(trial["tokens"] for trial in plain)
    stopped = within(search(folder, "asha", MORE * arguments.trials), budget)
    versions = {name: importlib.metadata.version(name) for name in ("ray", "torch")}
    print(f"{platform.platform()}, Python {platform.python_version()}, {versions}")
    print(f"budget: {budget:,} tokens")
    for name, trials in (("none", plain), ("asha", stopped)):
        done = sum(trial["state"] == "done" for trial in trials)
        print(f"{name}: {len(trials)} configurations, {done} to the end, best loss {best(trials):.4f}")
    print(f"{len(stopped) / len(plain):.2f} times as many configurations")


if __name__ == "__main__":
    main()
