"""Help and a config error answer at once: nothing heavy is imported on the way. Other processes, as a user's shell.

How many seconds that makes: benchmarks/startup.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import medray
from medray import storage
from medray.config import read
from medray.data.shards.preparation import INDEX, MANIFEST, Preparation
from medray.data.shards.shard_task import encode_shard
from medray.data.shards.split_summary import summarize
from medray.data.tokenizer import train_tokenizer

HEAVY = (
    *(
        "torch",
        "ray",
        "transformers",
        "tokenizers",
        "peft",
        "deepspeed",
        "mlflow",
        "numpy",
        "pandas",
        "pyarrow",
    ),
    *("safetensors", "sklearn", "scipy", "rouge_score", "sentencepiece", "accelerate", "gguf", "requests"),
)
IMPORTED = f"""
import json, sys
print(json.dumps([name for name in {sorted(HEAVY)!r} if name in sys.modules]), file=sys.stderr)
"""
# The command itself, and at its end the heavy modules that it imported, in order of their names.
WATCHED = f"""
import json, sys
from medray.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
{IMPORTED}
sys.exit(code)
"""


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")
    }
    environment["PYTHONPATH"] = str(Path(medray.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sound.yaml").write_text(
        "data: {dataset: clinic, tokenizer: train}\nmodel: {init: random, preset: t5-tiny}\n"
    )
    (tmp_path / "wrong.yaml").write_text("train: {epoch: 3}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "usage: medray"),
        (["--version"], 0, f"medray {medray.__version__}"),
        (["train", "--help"], 0, "usage: medray train"),
        (["data", "simulate", "--help"], 0, "usage: medray data simulate"),
        (["ui", "--help"], 0, "usage: medray ui"),
        (["export", "--help"], 0, "usage: medray export"),
        (["export", ".", "--format", "merged"], 2, "this folder holds no run"),
        ([], 2, "usage: medray"),
        (["train"], 2, "usage: medray train"),
        (["train", "nowhere.yaml"], 2, "no such config file"),
        (["train", "wrong.yaml"], 2, "did you mean train.epochs?"),
        (["train", "sound.yaml", "train.precision=fp16"], 2, "T5 overflows to NaN in fp16"),
        (["train", "sound.yaml", "cluster.workers=100000"], 2, "100000 workers of 0.5 CPU need 50001 CPUs"),
        (["train", "sound.yaml", "run.storage=sound.yaml"], 2, "not a folder"),
        (
            ["train", "sound.yaml", "model.preset=llama-tiny", "method={name: distill, variant: cosine}"],
            2,
            "a causal model has no encoder",
        ),
        (["data", "simulate", "x.jsonl", "--rows", "0"], 2, "must be at least 1"),
        (["config", "train.max_steps"], 0, "Optimizer steps"),
        (["ui", "."], 2, "this folder has no record of an MLflow run"),
    ],
)
def test_nothing_heavy_is_imported(folder: Path, arguments: list[str], code: int, says: str) -> None:
    done = run("-c", WATCHED, *arguments, folder=folder)
    *said, imported = done.stderr.splitlines()
    assert json.loads(imported) == []
    assert (done.returncode, says in "\n".join([done.stdout, *said])) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["medray.train", "medray.config", "medray.cli.main"])
def test_the_rooms_are_imported_without_their_libraries(folder: Path, module: str) -> None:
    done = run("-c", f"import {module}\n{IMPORTED}", folder=folder)
    assert (done.returncode, json.loads(done.stderr)) == (0, []), done.stderr


def test_the_watch_sees_what_it_watches_for(folder: Path) -> None:
    done = run("-c", f"import numpy\n{WATCHED}", "--version", folder=folder)
    assert json.loads(done.stderr) == ["numpy"]


def prepared(folder: Path) -> Path:
    """A config whose shards are ready, made as the pipeline makes them, and without Ray."""
    file = folder / "ready.yaml"
    tiny.write_jsonl(folder / "rows.jsonl", tiny.rows(23))
    file.write_text(
        "run: {name: mine, storage: runs}\nmodel: {name: null, init: random, preset: llama-tiny}\n"
        "data: {train: rows.jsonl, tokenizer: train, vocab_size: 400}\nmethod: {name: distill}\n"
    )
    layout = Preparation(read(file), "causal", None)
    train_tokenizer(["fever and cough"], 400, storage.at(layout.tokenizer))
    [source] = layout.sources["train"]
    tokens = layout.token_set("train", tiny.index(source, 7))
    storage.make_private(layout.folder / "train")
    tokens.index.write(layout.folder / "train" / INDEX)
    for shard in tokens.index.shards:
        encode_shard(tokens, shard, source, truth=False)
    storage.write(layout.folder / "train" / MANIFEST, json.dumps(summarize(tokens)))
    return file


def test_ready_shards_are_inspected_without_torch(tmp_path: Path) -> None:
    file = prepared(tmp_path)
    command = ["data", "inspect", file.name, "--near-duplicates", "--html", "page.html"]
    done = run("-c", WATCHED, *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert imported & {"torch", "ray", "transformers", "mlflow", "sklearn"} == set()
    assert {"tokenizers", "pyarrow"} <= imported  # it did read the shards
    assert "mine: what the model will see" in done.stdout
    assert (tmp_path / "page.html").stat().st_size
