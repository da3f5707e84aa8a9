"""Two fine-tunings with preference training in between (DFPO), against one fine-tuning on the same number of tokens.

    .venv/bin/python benchmarks/dfpo.py CORPORA --folder FOLDER [--seeds 0 1 2]

CORPORA holds the folder bc5cdr. Its training documents become instructions to list the chemicals of a text, and pairs of
the gold list and the list with one error by rule (`medray data pairs`). SmolLM2-135M-Instruct with LoRA: 16 steps of
fine-tuning, 8 of dpop, 16 of fine-tuning, and 40 of fine-tuning on the other side; a step has at most 1,024 tokens, and
those that were trained on are printed. After each stage the first 24 documents of the development set are answered, and
the entities of the parsed lists compared with the gold ones: precision, recall and F1 over all documents (micro). A list
that cannot be parsed counts as empty. A run that is there already is not repeated, so a second call goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TUNED, PREFERRED, HELD_OUT = 16, 8, 24  # steps, steps, documents
CONFIG = f"""
model: {{name: smollm2-135m-instruct}}
data:
  train: corpus/train.jsonl
  validation: held_out.jsonl
  extraction: {{types: [Chemical]}}
  max_prompt_tokens: 256
  max_label_tokens: 64
peft: {{type: lora, rank: 16, alpha: 32}}
train:
  global_batch_tokens: 1024
  micro_batch_size: 2
  precision: fp32
  optimizer: {{lr: 5.0e-4}}
  scheduler: {{name: linear, warmup_ratio: 0.1}}
  save_every_steps: 20
  max_steps: {TUNED}
eval: {{at_start: false, batch_size: 8, metrics: [accuracy], generation: {{rows: {HELD_OUT}, max_new_tokens: 64}}}}
cluster: {{workers: 1}}
tracking: {{enabled: false, show_text: true}}
"""
STAGES = f"""
stages:
  - {{name: pre}}
  - name: preference
    data: {{train: pairs.jsonl, validation: held_out_pairs.jsonl, shard_rows: 16}} # the reference pass is over whole shards
    method: {{name: dpo, loss: dpop, beta: 0.4}}
    train: {{max_steps: {PREFERRED}, optimizer: {{lr: 5.0e-5}}}}
  - {{name: post}}
"""


def medray(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medray", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def prepare(corpora: Path, folder: Path) -> None:
    """Write the documents, the held-out ones, and the pairs of both, once."""
    if (folder / "held_out_pairs.jsonl").exists():
        return
    if not (folder / "corpus").exists():
        medray("data", "import", "bc5cdr", corpora / "bc5cdr", folder / "corpus")
    rows = (folder / "corpus" / "validation.jsonl").read_text().splitlines(keepends=True)
    (folder / "held_out.jsonl").write_text("".join(rows[:HELD_OUT]))
    (folder / "tuned.yaml").write_text(CONFIG)
    (folder / "dfpo.yaml").write_text(CONFIG + STAGES)
    for split, name in (("train", "pairs"), ("validation", "held_out_pairs")):
        medray(
            "data",
            "pairs",
            folder / "tuned.yaml",
            "--split",
            split,
            "--to",
            folder / f"{name}.jsonl",
            "--force",
        )


def scores(run: Path) -> dict[str, float]:
    """Precision, recall and F1 of the entities in a run's answers, and the tokens that it was trained on."""
    right = said = gold = unparsed = 0
    for line in (run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        wanted = {item.casefold() for item in json.loads(row["reference"])}
        try:
            found = {item.casefold() for item in json.loads(row["prediction"]) if isinstance(item, str)}
        except (ValueError, TypeError):
            found, unparsed = set(), unparsed + 1
        right, said, gold = right + len(found & wanted), said + len(found), gold + len(wanted)
    precision, recall = right / max(said, 1), right / gold
    f1 = 2 * right / (said + gold)
    tokens = json.loads((run / "summary.json").read_text())["tokens"]
    return {"precision": precision, "recall": recall, "f1": f1, "unparsed": unparsed, "tokens": tokens}


def one_seed(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """The scores after each stage, and those of one fine-tuning."""
    place = (f"run.storage={folder / 'runs'}", f"run.seed={seed}")
    medray("train", folder / "dfpo.yaml", *place, f"run.name=dfpo-{seed}")
    medray(
        "train",
        folder / "tuned.yaml",
        *place,
        f"run.name=tuned-{seed}",
        f"train.max_steps={2 * TUNED + PREFERRED}",
    )
    runs = {name: f"dfpo-{seed}.{n}-{name}" for n, name in enumerate(("pre", "preference", "post"), 1)}
    return {
        name: scores(folder / "runs" / run) for name, run in (runs | {"one tuning": f"tuned-{seed}"}).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(options.corpora.resolve(), folder)
    found: list[dict[str, dict[str, Any]]] = []
    for seed in options.seeds:
        found.append(one_seed(folder, seed))
        print(f"  seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    for stage in found[0]:
        print(f"{stage}, {len(found)} seeds:")
        for key in found[0][stage]:
            values = [one[stage][key] for one in found]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            print(f"  {key:<12} {statistics.mean(values):10.3f}{spread}")
    names = ("torch", "transformers", "peft", "ray")
    versions = {name: importlib.metadata.version(name) for name in names}
    print(f"{platform.platform()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
