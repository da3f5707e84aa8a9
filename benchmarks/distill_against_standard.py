"""Distilling step-by-step against training on labels alone, on three real corpora, at the same number of tokens.

    .venv/bin/python benchmarks/distill_against_standard.py CORPORA [CORPUS ...]

CORPORA holds the folders svamp_palm, pubmedqa and medistill_d2n. SmolLM2-135M-Instruct with LoRA, three seeds a side; a
step is a global batch of at most 1,024 tokens on both sides, so `distill`, which reads each input twice, sees fewer rows.
Rows are not cut, so its steps hold fewer tokens, and it gets more of them: STEPS makes the means over the seeds agree to 3 %,
and the tokens that were trained on are printed. Each side has the same learning rate, and the labels of the same validation
rows are judged: exact answers of svamp (a tenth of its train split) and PubMedQA (the last 100 of its 500 rows), ROUGE of the
note for 50 dialogues. Printed as a table of mean and sample standard deviation; a cell that is there already is not run again
(--folder).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS, STEP_TOKENS, MODES = (0, 1, 2), 1024, ("standard", "task_prefix")
STEPS = {"svamp_palm": (32, 35), "pubmedqa": (32, 45), "medistill_d2n": (32, 36)}  # one a mode
CONFIG = """
model: {name: smollm2-135m-instruct}
method: {name: distill, alpha: 0.5}
peft: {type: lora, rank: 16, alpha: 32}
train:
  micro_batch_size: 2
  zero_stage: 2
  precision: fp32
  optimizer: {lr: 5.0e-4}
  scheduler: {name: linear, warmup_ratio: 0.1}
  save_every_steps: 1000
cluster: {workers: 2, cpus_per_worker: 0.5}
tracking: {enabled: false}
"""
DATA = {
    "svamp_palm": """
data:
  dataset: svamp
  max_input_tokens: 128
  max_label_tokens: 24
  max_rationale_tokens: 96
eval: {at_start: false, batch_size: 16, metrics: [accuracy], generation: {rows: 200, max_new_tokens: 24}}
""",
    "pubmedqa": """
data:
  train: train.jsonl
  validation: validation.jsonl
  prompts: {system: "", label: "Answer the question with yes, no or maybe", rationale: Explain the answer}
  max_input_tokens: 256
  max_label_tokens: 8
  max_rationale_tokens: 96
eval: {at_start: false, batch_size: 16, metrics: [accuracy], generation: {rows: 100, max_new_tokens: 8}}
""",
    "medistill_d2n": """
data:
  train: medqa_d2n_train.json
  validation: medqa_d2n_valid.json
  leakage: drop
  columns: {input: input, label: output, rationale: rationale}
  prompts:
    system: ""
    label: Summarize clinical text
    rationale: Extract the key information from clinical text
  max_input_tokens: 256
  max_label_tokens: 96
  max_rationale_tokens: 96
eval: {at_start: false, batch_size: 8, metrics: [rouge], generation: {rows: 50, max_new_tokens: 96}}
""",
}


def pubmedqa_rows(source: Path, folder: Path) -> None:
    """The question with its abstract as input, yes, no or maybe as label, the authors' conclusion as rationale."""
    found = json.loads(source.read_text())
    rows = [
        {
            "id": name,
            "input": f"{row['QUESTION']}\n{' '.join(row['CONTEXTS'])}",
            "label": row["final_decision"],
            "rationale": row["LONG_ANSWER"],
        }
        for name, row in sorted(found.items())
    ]
    for name, part in (("train", rows[:-100]), ("validation", rows[-100:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def cell(folder: Path, root: Path, corpus: str, mode: str, seed: int, steps: int) -> dict[str, Any]:
    """What one run trained on, and the metrics of what it exported."""
    config = folder / f"{corpus}.yaml"
    config.write_text(CONFIG + DATA[corpus])
    name = f"{corpus}-{mode}-{seed}"
    command = [
        *(sys.executable, "-m", "medray", "train", str(config), f"run.name={name}", f"run.storage={folder}"),
        *(f"run.seed={seed}", f"data.root={root}", f"method.mode={mode}", f"train.max_steps={steps}"),
        f"train.global_batch_tokens={STEP_TOKENS}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((folder / name / "summary.json").read_text())
    return {"tokens": summary["tokens"], "samples": summary["samples"], **summary["eval"]["after"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("corpus", nargs="*", default=list(DATA))
    parser.add_argument("--folder", type=Path, help="where the runs are kept, so that a second call goes on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        pubmedqa_rows(options.corpora / "pubmedqa" / "pqal_train.json", folder)
        for corpus in options.corpus:
            root = folder if corpus == "pubmedqa" else (options.corpora / corpus).resolve()
            for mode, steps in zip(MODES, STEPS[corpus], strict=True):
                cells = []
                for seed in SEEDS:
                    cells.append(cell(folder, root, corpus, mode, seed, steps))
                    print(f"  {corpus} {mode} seed {seed}: {cells[-1]}", file=sys.stderr, flush=True)
                print(f"{corpus}, {mode}, {steps} steps, {len(SEEDS)} seeds:")
                for key in cells[0]:
                    values = [one[key] for one in cells]
                    print(f"  {key:<28} {statistics.mean(values):10.3f} ± {statistics.stdev(values):.3f}")
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "transformers", "peft", "deepspeed", "ray")
    }
    print(f"{platform.platform()}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
