"""Helpers to run `medray train` on a test's cluster: small configs, waiting for a state, reading what a run wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from medray.storage import StoragePath

WORKER = "ray::RayTrainWorker"
SECRET = "zebrafish"  # in every record; no log, report or metric may hold it
CONFIG = """
run: {{storage: runs, name: {name}, seed: 5}}
model: {{name: null, init: random, preset: llama-tiny}}
data: {{train: train.jsonl, validation: validation.jsonl, tokenizer: train, vocab_size: 400, shard_rows: 6,
       window_shards: 2, max_input_tokens: 64, max_label_tokens: 32, max_rationale_tokens: 32}}
method: {{name: distill, alpha: 0.3}}
train: {{max_steps: {steps}, global_batch_size: 8, micro_batch_size: 2, precision: fp32, optimizer: {{lr: 1.0e-2}},
        save_every_steps: 10}}
peft: {{type: lora, rank: 2, dropout: 0.0}}
cluster: {{workers: 2, cpus_per_worker: 0.5, threads_per_worker: 1, max_failures: 0}}
eval: {{metrics: []}}
"""


def write_config(folder: Path, name: str, steps: int) -> Path:
    """A run of `steps` steps whose storage is `folder`/runs.

    folder: one of pytest's. Tokens and the tokenizer are made once for all tests, in a folder next to it.
    """
    (folder / "runs").mkdir(exist_ok=True)
    for made_once in ("tokens", "tokenizers"):
        (shared := folder.parent / "made-once" / made_once).mkdir(parents=True, exist_ok=True)
        if not (folder / "runs" / made_once).exists():
            (folder / "runs" / made_once).symlink_to(shared)
    rows = [
        {**row, "input": f"{SECRET} {row['input']}", "label": f"{row['label']} {SECRET}"}
        for row in tiny.rows(30)
    ]
    tiny.write_jsonl(folder / "train.jsonl", rows[:22])
    tiny.write_jsonl(folder / "validation.jsonl", rows[22:])
    (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, steps=steps))
    return folder / f"{name}.yaml"


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "medray", "train", str(config), *arguments]


def run(cluster: Any, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(cluster, command(config, *arguments))


def ended(cluster: Any, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command on the cluster to its end."""
    return subprocess.run(
        command,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def until(
    condition: Callable[[], bool],
    what: str,
    seconds: float = 150,
    driver: subprocess.Popen[Any] | None = None,
) -> None:
    """Wait until the condition is true. driver: the command that makes it true; waiting fails once it has ended."""
    limit = time.monotonic() + seconds
    while not condition():
        assert driver is None or driver.poll() is None, f"ended before: {what}"
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.02)


def steps_of(folder: StoragePath) -> list[dict[str, Any]]:
    file = folder / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
