"""Memory of two Ray workers that load a model of 1 billion parameters under ZeRO-3, each keeping half.

    .venv/bin/python benchmarks/sharded_loading.py [LAYERS]

A random Llama in bfloat16 is written in safetensors files of at most 200 MB. Two actors of one local Ray cluster load it as a
run does (`medray.models.load`), with and without giving freed memory back to the system, in fresh processes each. What
counts is anonymous memory (/proc/self/smaps_rollup): mapped file pages are the system's, and it takes them back when it
needs them. What a process had before is taken once it has loaded a tiny model in the same way: code, threads and process
groups, which no model's size changes. Aims: after loading at most that, its share, and a tenth of the share; at the peak
at most one file more.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

FILE_BYTES, WORKERS = 200_000_000, 2
MAKE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_default_dtype(torch.bfloat16)
sizes = {"tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1),
         "whole": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=int(sys.argv[2]))}
for name, size in sizes.items():
    config = LlamaConfig(vocab_size=32000, num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=False, **size)
    LlamaForCausalLM(config).save_pretrained(f"{sys.argv[1]}/{name}", max_shard_size="200MB")
"""


class Rank:
    """An actor: one rank, in a process of its own."""

    def load(self, rank: int, port: int, folder: str, give_back: bool) -> dict[str, int]:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(WORKERS),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        import torch

        from medray.config.model import ModelConfig
        from medray.config.train import TrainConfig
        from medray.models import load
        from medray.plan import model_config
        from medray.train.engine import deepspeed_config, prepare_process

        prepare_process(1)
        if not give_back:
            load.give_back_freed_memory = lambda: None
        settings = deepspeed_config(
            TrainConfig(zero_stage=3), micro_batch_size=1, world_size=WORKERS, precision="bf16"
        )
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0

        def loaded(name: str) -> Any:
            asked = ModelConfig(name=f"{folder}/{name}")
            config = model_config.model_config(asked, 0)
            return load.load_model(asked, config, None, dtype=torch.bfloat16, seed=0, zero3=settings)

        loaded("tiny")
        gc.collect()
        base, peak, ended = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        model = loaded("whole")
        gc.collect()
        after = anonymous()
        ended.set()
        watcher.join()
        share = sum(2 * parameter.ds_tensor.numel() for parameter in model.parameters())
        return {"base": base, "share": share, "after": after, "peak": max(peak[0], after)}


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise OSError("no Anonymous line in smaps_rollup")


def measured(folder: str, port: int, give_back: bool) -> list[dict[str, int]]:
    import ray

    actors: list[Any] = [ray.remote(Rank).options(num_cpus=0.5).remote() for _ in range(WORKERS)]
    found = ray.get([actor.load.remote(rank, port, folder, give_back) for rank, actor in enumerate(actors)])
    for actor in actors:
        ray.kill(actor)
    return found


def main() -> None:
    layers = sys.argv[1] if len(sys.argv) > 1 else "16"
    from medray.cli.cluster import before_import, connect, disconnect

    before_import(None)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder, layers], check=True)
        files = sorted(Path(folder, "whole").glob("*.safetensors"))
        largest = max(file.stat().st_size for file in files)
        whole = sum(file.stat().st_size for file in files)
        print(f"{whole / 1e6:,.0f} MB in {len(files)} files, the largest {largest / 1e6:,.0f} MB")
        connect(None)
        try:
            for number, give_back in enumerate((True, False)):
                print(f"freed memory {'goes back' if give_back else 'stays with the process'}:")
                for rank, one in enumerate(measured(folder, 29610 + number, give_back)):
                    allowed = one["base"] + 1.1 * one["share"]
                    print(
                        f"  rank {rank}: before {one['base'] / 1e6:,.0f} MB, share {one['share'] / 1e6:,.0f}, after "
                        f"{one['after'] / 1e6:,.0f} (aim {allowed / 1e6:,.0f}), peak {one['peak'] / 1e6:,.0f} "
                        f"(aim {(allowed + largest) / 1e6:,.0f})"
                    )
        finally:
            disconnect()
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "deepspeed", "ray")
    }
    print(platform.python_version(), versions)


if __name__ == "__main__":
    main()
