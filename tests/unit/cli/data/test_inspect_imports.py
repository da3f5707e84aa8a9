"""`medray data inspect` of ready shards imports neither torch nor Ray."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from heavy_imports import WATCHED, run

from medray import storage
from medray.config import read
from medray.data.shards.preparation import INDEX, Preparation
from medray.data.shards.seal import MANIFEST
from medray.data.shards.shard_task import encode_shard
from medray.data.shards.split_summary import summarize
from medray.data.tokenizer import train_tokenizer


def prepared(folder: Path) -> Path:
    """A config whose shards are ready, made as the pipeline makes them, and without Ray."""
    file = folder / "ready.yaml"
    tiny.write_jsonl(folder / "rows.jsonl", tiny.rows(23))
    file.write_text(
        "run: {name: mine, storage: runs}\nmodel: {name: null, init: random, preset: llama-tiny}\n"
        "data: {train: rows.jsonl, tokenizer: train, vocab_size: 400}\nmethod: {name: distill}\n"
    )
    layout = Preparation(read(file), "causal", None)
    train_tokenizer(["fever and cough"], 400, storage.at(str(layout.tokenizer)))
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
