"""The cost of the reference in preference training: stored, live, and as a second copy of the model.

    .venv/bin/python benchmarks/preference_reference.py PAIRS.jsonl [--steps 8] [--turns 3]

PAIRS.jsonl is a file of `medray data pairs`. SmolLM2-135M-Instruct, dpop, one worker without Ray. Each way runs in a
process of its own, in turns: LoRA with the stored reference, LoRA with the live one, full tuning with the stored one, and
full tuning with a frozen second copy, as other trainers have it: loaded beside the model, and run in each step. Printed:
the median step, the peak memory, and the reference pass over all pairs beside the same forward passes without it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

LORA, FULL = {"type": "lora", "rank": 8}, {"type": "none"}
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "lora, stored": (LORA, "stored"),
    "lora, live": (LORA, "live"),
    "full, stored": (FULL, "stored"),
    "full, second copy": (FULL, "copy"),
}
MODEL = "smollm2-135m-instruct"


def plan(folder: Path, pairs: Path, way: str, steps: int) -> Any:
    """The plan of one way. All of them share the token shards, which the first makes."""
    from medray.config import Config
    from medray.config.method_specs import spec_of
    from medray.data.index.membership import SourceParts, join
    from medray.data.index.row_index import index_range
    from medray.data.index.sources import sources
    from medray.data.shards.preparation import encode_spec
    from medray.data.shards.shard_task import encode_shard
    from medray.data.shards.token_split import TokenSet
    from medray.plan.model_config import describe
    from medray.train.worker_plan import WorkerPlan

    peft, reference = WAYS[way]
    config = Config.model_validate(
        {
            "run": {"storage": str(folder), "name": way.replace(", ", "-").replace(" ", "-")},
            "model": {"name": MODEL},
            "data": {
                "train": [str(pairs)],
                "max_prompt_tokens": 256,
                "max_label_tokens": 96,
                "shard_rows": 64,
            },
            "method": {
                "name": "dpo",
                "loss": "dpop",
                "reference": "live" if reference == "live" else "stored",
            },
            "peft": peft,
            "train": {
                "max_steps": steps,
                "global_batch_size": 2,
                "micro_batch_size": 2,
                "precision": "fp32",
                "zero_stage": 0,
                "save_every_steps": 10_000,
                "optimizer": {"lr": 1e-5},
            },
            "eval": {"batch_size": 2, "metrics": []},
        }
    )
    model = describe(config.model, config.data.vocab_size)
    (source,) = sources(config, "train", eos_token="")
    method = spec_of(config.method)
    ranges = [index_range(source, 0, None, config.data.shard_rows, method=method)]
    index = join([SourceParts(source.name, 0, ranges)], [], config.data, seed=0)["train"]
    tokens = TokenSet(
        folder=str(folder / "tokens"),
        tokenizer=str(model.folder),
        spec=encode_spec(config, "causal"),
        index=index,
    )
    if not (folder / "tokens").exists():
        (folder / "tokens").mkdir()
        for shard in index.shards:
            encode_shard(tokens, shard, source, truth=False)
    run_folder = folder / config.run.name
    run_folder.mkdir(exist_ok=True)
    return WorkerPlan(config, str(run_folder), tokens, None, model.config, steps, "fp32", 1, reference=MODEL)


def one(folder: Path, pairs: Path, way: str, steps: int) -> dict[str, float]:
    """Train in this process: the median seconds of a step without the first, and the peak of the memory in GB."""
    import torch

    from medray.evaluate.loss_sums import loss_sums, reference_values
    from medray.train.loop import step as step_module
    from medray.train.loop.build import build
    from medray.train.loop.news import News
    from medray.train.loop.training import train

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from recorder import Recorder

    made, seen = plan(folder, pairs, way, steps), Recorder()
    news = News(seen)
    built = build(made, news)
    if WAYS[way][1] == "copy":
        from medray.models.load import load_model

        copy = load_model(
            made.config.model, made.model, built.tokenizer, dtype=torch.float32, seed=made.config.run.seed
        )

        def with_copy(model: Any, micro: Any, method: Any, device: Any, **more: Any) -> Any:
            reference_values(copy, micro, method, device, seq2seq=more["seq2seq"])
            return loss_sums(model, micro, method, device, **more)

        patched: Any = step_module
        patched.loss_sums = with_copy
    train(made, built, news)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"step": statistics.median(one["seconds"] for one in seen.steps[1:]), "peak": peak}


def reference_pass(folder: Path, pairs: Path) -> dict[str, float]:
    """The seconds of the pass over all pairs, and of the same number of pairs through the forwards of one epoch."""
    import torch

    from medray.evaluate.loss_sums import reference_values
    from medray.train.loop.batch_reader import BatchReader
    from medray.train.loop.build import build
    from medray.train.loop.news import News
    from medray.train.loop.reference import compute_reference

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from recorder import Recorder

    first = plan(folder, pairs, "lora, stored", 1)
    steps = first.train.plan(first.config).steps(1)
    made = replace(first, total_steps=steps, reference="measured")
    built, news = build(made, News(Recorder())), News(Recorder())
    began = time.perf_counter()
    compute_reference(made, built, news)
    stored = time.perf_counter() - began
    reader = BatchReader(
        made.train.store(),
        made.train.plan(made.config),
        made.method,
        built.layout,
        rank=0,
        world_size=1,
        architecture="causal",
        pad_id=built.tokenizer.pad_token_id,
        packed=False,
        reference=made.stored_reference(made.train),
    )
    began = time.perf_counter()
    with torch.no_grad():
        for step in range(steps):
            for parts in reader.prepare(step).micro:
                for micro in parts:
                    reference_values(
                        built.engine.model, micro, made.method, built.engine.device, seq2seq=False
                    )
    return {"pass": stored, "forwards": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=[*WAYS, "pass"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        seconds = (
            reference_pass(options.folder, options.pairs)
            if options.one == "pass"
            else one(options.folder, options.pairs, options.one, options.steps)
        )
        print(json.dumps(seconds))
        return
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(options.turns):
            for way in (*WAYS, "pass"):
                folder = Path(temporary) / str(turn)
                folder.mkdir(exist_ok=True)
                command = [sys.executable, __file__, str(options.pairs.resolve()), "--one", way]
                command += ["--steps", str(options.steps), "--folder", str(folder)]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[-3000:]
                found.setdefault(way, []).append(json.loads(done.stdout.splitlines()[-1]))
                print(f"  turn {turn}, {way}: {found[way][-1]}", file=sys.stderr, flush=True)
    for way, turns in found.items():
        medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        print(f"{way:<20}" + "  ".join(f"{name} {value:.3f}" for name, value in medians.items()))
    ratios = [a["step"] / b["step"] for a, b in zip(found["lora, stored"], found["lora, live"], strict=True)]
    print(f"a step, stored / live: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    ratios = [turn["pass"] / turn["forwards"] for turn in found["pass"]]
    print(
        f"the pass / forwards of an epoch: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    print(f"{platform.platform()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
