"""The share of step time that a worker waits for data, after the first window.

    .venv/bin/python benchmarks/data_wait.py [STEPS [SETTING ...]]

Settings, each a `medray train` in a process of its own with nothing prepared:

    quickstart   configs/quickstart.yaml as it is: SmolLM2 with an adapter, two workers, 10 steps
    unpacked     a llama of 1 M parameters with random weights on 20,000 small consultations, STEPS (400) steps of 8 rows
    packed       the same in sequences of 512 tokens, 8 a step

The small model is the preset llama-tiny, wider and deeper, with a tokenizer that was trained on 2,000 of the rows. Its
shards hold 256 rows, so that there are windows after the first one: with the default of 1,024 rows the first window would
last longer than the run. Numbers are of rank 0's steps.jsonl: `data_wait_seconds` is the time that the loop stood still
before a step, `seconds` that of the step itself; the share is the first by the sum of both. A step counts as after the
first window from the first one that has a row of another shard; where all data are one window, from the fourth step on.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
TARGET, STEPS, STEPS_WITHOUT_WINDOW = 0.02, 400, 3
VOCABULARY, TOKENIZER_ROWS = 3200, 2000
MODEL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
CONFIG = """
run: {{name: {name}, storage: runs}}
model: {{name: {model}, init: random}}
data:
  dataset: clinic
  clinic: {{size: small, train_rows: 20000, validation_rows: 0}}
  shard_rows: 256
  pack_tokens: {pack_tokens}
method: {{name: sft}}
train: {{max_steps: {steps}, global_batch_size: 8, optimizer: {{lr: 1.0e-3}}}}
eval: {{at_start: false, generation: {{rows: 0}}}}
cluster: {{workers: 1}}
"""


def write_model(folder: Path) -> None:
    """Config and tokenizer of a model of 1 M parameters."""
    from medray.clinic import consultations
    from medray.data.tokenizer import load_tokenizer, train_tokenizer
    from medray.plan.model_config import PRESETS, special_tokens

    rows = consultations.rows(0, TOKENIZER_ROWS, split="train", size="small")
    texts = (text for row in rows for text in (row["dialogue"], row["note"]))
    train_tokenizer(texts, VOCABULARY, folder)
    config = PRESETS["llama-tiny"] | MODEL
    config |= special_tokens(config, load_tokenizer(str(folder)))
    (folder / "config.json").write_text(json.dumps(config))


def after_first_window(config: Any, steps: int) -> int:
    """Number of steps before the first one that needs another shard than those of the first window; 0: there is none."""
    from medray.data.shards.preparation import ready
    from medray.plan.model_config import architecture, model_config, model_folder

    folder = model_folder(config.model)
    sets = ready(config, architecture(model_config(config.model, config.data.vocab_size)), folder)
    assert sets is not None, "the run has written all its shards"
    plan = sets["train"].plan(config)
    window = set(plan.shard_order()[: config.data.window_shards].tolist())
    return next((step for step in range(steps) if set(plan.batch(step).shards.tolist()) - window), 0)


def summarized(file: str, *overrides: str) -> dict[str, Any]:
    """What the steps of a finished run say."""
    from medray.config import read

    config = read(file, overrides)
    run = Path(config.run.storage) / config.run.name
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    first = after_first_window(config, len(steps))
    kept = steps[first or STEPS_WITHOUT_WINDOW :]

    def share(rows: list[dict[str, Any]]) -> float:
        waited = sum(row.get("data_wait_seconds", 0.0) for row in rows)
        return waited / (waited + sum(row["seconds"] for row in rows)) if rows else float("nan")

    return {
        "steps": len(steps),
        "first": first,
        "kept": len(kept),
        "share": share(kept),
        "share_all": share(steps),
        "longest": max((row.get("data_wait_seconds", 0.0) for row in kept), default=0.0),
        "median": statistics.median(row["seconds"] for row in kept or steps),
        "tokens": statistics.mean(row["tokens"] for row in kept or steps),
        "absent": sum("data_wait_seconds" not in row for row in steps),
    }


def once(name: str, folder: Path, steps: int) -> None:
    """Runs one setting and prints what it found."""
    file, overrides = ROOT / "configs/quickstart.yaml", [f"run.storage={folder / name}"]
    if name != "quickstart":
        file = folder / f"{name}.yaml"
        pack_tokens = 512 if name == "packed" else "null"
        file.write_text(
            CONFIG.format(name=name, model=folder / "model", steps=steps, pack_tokens=pack_tokens)
        )
    command = [sys.executable, "-m", "medray", "train", str(file), *overrides, "--json"]
    with (folder / f"{name}.log").open("w") as messages:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    if done.returncode:
        raise SystemExit(
            f"{name} ended with {done.returncode}:\n{(folder / f'{name}.log').read_text()[-3000:]}"
        )
    summary = json.loads(done.stdout)
    found = json.loads(
        subprocess.run(
            [sys.executable, __file__, "summarized", str(file), *overrides],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    which = (
        f"after the first window, which ends with step {found['first']}"
        if found["first"]
        else f"after the first {STEPS_WITHOUT_WINDOW} steps (these data are one window)"
        if name == "quickstart"
        else f"after the first {STEPS_WITHOUT_WINDOW} steps (no step left the first window)"
    )
    print(
        f"{name}: {summary['parameters']['total']:,} parameters, {found['steps']} steps, "
        f"{found['tokens']:,.0f} tokens a step, median step {found['median'] * 1e3:.0f} ms\n"
        f"  waited {found['share']:.2%} of the time of {found['kept']} steps {which} (target {TARGET:.0%}); "
        f"longest wait {found['longest'] * 1e3:.2f} ms; of all steps {found['share_all']:.2%}"
        + (f"; {found['absent']} steps without a wait on record" if found["absent"] else ""),
        flush=True,
    )


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for setting in sys.argv[2:] or ("quickstart", "unpacked", "packed"):
            once(setting, folder, steps)
    packages = ("medray", "torch", "ray", "deepspeed", "transformers", "pyarrow")
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["summarized"]:
        print(json.dumps(summarized(*sys.argv[2:])))
    else:
        main()
