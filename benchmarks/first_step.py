"""Seconds from the command to the first optimizer step of a 1M model, and as a multiple of torchrun with DeepSpeed.

    .venv/bin/python benchmarks/first_step.py [--pairs 5] [--against ANOTHER_CHECKOUT] [--workers 1]

The commands take turns, so that a machine that others use is as busy for one as for the next; medians of all turns.
medray starts a private cluster each time, trains its tokenizer and writes its shards; the script that torchrun starts has
random tokens. --against: the same command of another checkout, with the same interpreter.
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
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = """
run: {{storage: {storage}, name: r{number}}}
model: {{name: null, init: random, preset: llama-tiny}}
data: {{dataset: clinic, tokenizer: train, vocab_size: 400}}
train: {{max_steps: 2, global_batch_size: 8, micro_batch_size: 2, precision: fp32}}
cluster: {{workers: {workers}}}
eval: {{metrics: []}}
"""
PEER = """
import os, deepspeed, torch
from transformers import LlamaConfig, LlamaForCausalLM
from medray.plan.model_config import PRESETS
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
model = LlamaForCausalLM(LlamaConfig(**{**PRESETS["llama-tiny"], "vocab_size": 400}))
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config={
    "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True})
ids = torch.randint(0, 400, (2, 64))
engine.backward(engine(input_ids=ids, labels=ids).loss)
engine.step()
open("stepped", "w").close()
"""


def seconds_to(sign: Path, command: list[str], folder: Path, checkout: Path) -> float:
    """Runs `command` to its end; seconds until the file `sign` had something to say."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(checkout), "DS_ACCELERATOR": "cpu"}
    began, found = time.perf_counter(), None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            if found is None and sign.exists():
                found = time.perf_counter() - began
            time.sleep(0.02)
    if process.returncode or found is None:
        raise SystemExit(
            f"{' '.join(command)} ended with {process.returncode}:\n{(folder / 'log').read_text()}"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    checkouts = {"medray": ROOT} | (
        {"medray of the other checkout": asked.against.resolve()} if asked.against else {}
    )
    found: dict[str, list[float]] = {name: [] for name in ("torchrun and DeepSpeed", *checkouts)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "peer.py").write_text(PEER)
        for turn in range(asked.pairs + 1):
            (folder / "stepped").unlink(missing_ok=True)
            ranks = f"--nproc-per-node={asked.workers}"
            peer = [sys.executable, "-m", "torch.distributed.run", "--standalone", ranks, "peer.py"]
            times = {"torchrun and DeepSpeed": seconds_to(folder / "stepped", peer, folder, ROOT)}
            for number, (who, checkout) in enumerate(checkouts.items()):
                # Shards of one version are not always those of another, so each has a storage of its own.
                storage = folder / f"runs-{number}"
                text = CONFIG.format(storage=storage, number=turn, workers=asked.workers)
                (folder / "run.yaml").write_text(text)
                command = [sys.executable, "-m", "medray", "train", "run.yaml"]
                times[who] = seconds_to(storage / f"r{turn}" / "steps.jsonl", command, folder, checkout)
            print(", ".join(f"{who} {seconds:.1f}" for who, seconds in times.items()), flush=True)
            if turn:  # the first fills the disk's cache, and writes the shards that all share
                for who, seconds in times.items():
                    found[who].append(seconds)
    base = statistics.median(found["torchrun and DeepSpeed"])
    for who, all_of_it in found.items():
        median = statistics.median(all_of_it)
        print(
            f"  {who:<30} median {median:.1f} s, {median / base:.2f} times torchrun's, {median - base:+.1f} s"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "deepspeed")
    )
    print(f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
