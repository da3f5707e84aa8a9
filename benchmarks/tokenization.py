"""JSONL in, token shards out: medray's pipeline beside the settings of `datasets.map`, in one run on the same cores.

    .venv/bin/python benchmarks/tokenization.py [ROWS]

The rows are consultations of the simulated clinic with their notes; both sides tokenize the same prompt, dialogue and
note with the tokenizer of SmolLM2 and write ids and what carries loss. Each setting has a process of its own and an empty
cache. The time of `datasets.map` is that of load_dataset and map; medray's is from the pipeline's start on a running
cluster to the last shard, the index included, and to the first batch that a rank can train on. Once its worker processes
are new, as for the first run of a job: Ray has only run one empty Ray Data job before, and they import their libraries
under the clock. Once they are warm, as for a later stage or trial: they have prepared a few other rows, as `datasets` and
the tokenizer were imported before the clock on the other side.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SETTINGS = [(1, "false"), (1, "true"), (2, "false"), (2, "true")]
REHEARSED = 20_000
PROMPT = "Write the note of this consultation"


def write_rows(file: Path, rows: int) -> None:
    from medray.clinic import consultations

    with file.open("w") as stream:
        for row in consultations.rows(0, rows, split="train", size="medium"):
            stream.write(json.dumps({"id": row["id"], "input": row["dialogue"], "label": row["note"]}) + "\n")


def by_map(file: str, processes: int) -> dict[str, float]:
    """What a user of `datasets` would write: batched, one call of the tokenizer a column."""
    import datasets
    from transformers import AutoTokenizer

    from medray.plan.packaged import ensure

    datasets.disable_progress_bars()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(ensure("smollm2-135m-instruct")))
    frame = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{PROMPT}:\n\0"}], tokenize=False, add_generation_prompt=True
    )
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in frame.split("\0"))
    end = [tokenizer.eos_token_id]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        inputs = tokenizer(batch["input"], add_special_tokens=False, truncation=True, max_length=1024)[
            "input_ids"
        ]
        answers = tokenizer(batch["label"], add_special_tokens=False, truncation=True, max_length=511)[
            "input_ids"
        ]
        ids, labels = [], []
        for asked, answer in zip(inputs, answers, strict=True):
            prompt = before + asked + after
            ids.append(prompt + answer + end)
            labels.append([-100] * len(prompt) + answer + end)
        return {"input_ids": ids, "labels": labels}

    began = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=file, split="train")
    made = rows.map(encode, batched=True, num_proc=processes, remove_columns=rows.column_names)
    seconds = time.perf_counter() - began
    import pyarrow.compute as pc

    tokens = pc.sum(pc.list_value_length(made.data.column("input_ids"))).as_py()
    return {"seconds": seconds, "tokens": tokens}


def by_medray(file: str, storage: str, rehearsal: str) -> dict[str, float]:
    import ray
    import ray.data
    from transformers import AutoTokenizer  # noqa: F401 - as on the other side, before the clock

    from medray.data.shards.pipeline import quiet_ray_data

    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=2,
        object_store_memory=256 * 1024**2,
        logging_level=logging.ERROR,
    )
    quiet_ray_data()
    if rehearsal:
        prepare(rehearsal, f"{storage}/rehearsal")
    else:
        ray.data.range(2, override_num_blocks=2).map(lambda row: row).materialize()
    return prepare(file, storage)


def prepare(file: str, storage: str) -> dict[str, float]:
    import ray

    from medray.config import Config
    from medray.config.method import MethodConfig
    from medray.data.shards.pipeline import Pipeline
    from medray.data.shards.preparation import manifests, ready
    from medray.data.tokenizer import load_tokenizer
    from medray.methods import loss_of
    from medray.plan.model_config import model_folder
    from medray.train.loop.batch_reader import BatchLayout, BatchReader

    config = Config.model_validate(
        {
            "run": {"storage": storage},
            "model": {"name": "smollm2-135m-instruct"},
            "data": {"train": file, "prompts": {"label": PROMPT}},
        }
    )
    folder = model_folder(config.model)
    assert folder is not None
    began = time.perf_counter()
    pipeline: Any = ray.remote(Pipeline).options(num_cpus=0).remote(config, "causal", folder)
    indexing = pipeline.index.remote()
    tokenizer = pickle.dumps(load_tokenizer(folder))
    tokens = ray.get(indexing)["train"]
    indexed = time.perf_counter() - began
    encoding = pipeline.encode.remote(tokenizer)
    store = tokens.store()
    reader = BatchReader(
        store,
        tokens.plan(config, store),
        loss_of(MethodConfig()),
        BatchLayout(8, 8),
        rank=0,
        world_size=1,
        architecture="causal",
        pad_id=0,
        packed=False,
    )
    for shard in tokens.plan(config).shard_order()[: config.data.window_shards]:
        store.wait(int(shard))
    reader.prepare(0)
    first = time.perf_counter() - began
    ray.get(encoding)
    seconds = time.perf_counter() - began
    ray.kill(pipeline)
    began = time.perf_counter()
    again = ready(config, "causal", folder)
    assert again is not None
    second = time.perf_counter() - began
    counted = manifests(again)["train"]["tasks"]["label"]["tokens"]
    return {
        "seconds": seconds,
        "tokens": counted,
        "indexed": indexed,
        "first_batch": first,
        "second_start": second,
    }


def in_a_process(*arguments: str, **environment: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            env=os.environ
            | {"HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
            | environment,
            stdout=subprocess.PIPE,
            check=True,
        )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, rows)
        print(f"{rows:,} rows, {file.stat().st_size / 1e6:.0f} MB of JSONL", flush=True)
        few = Path(folder) / "few.jsonl"
        with file.open() as every, few.open("w") as some:
            some.writelines(itertools.islice(every, REHEARSED))
        for workers, rehearsal in (("new", ""), ("warm", str(few))):
            ours = in_a_process(
                "medray", str(file), f"{folder}/{workers}", rehearsal, TOKENIZERS_PARALLELISM="false"
            )
            print(
                f"medray, {workers} workers: {ours['seconds']:.1f} s, {ours['tokens'] / ours['seconds']:,.0f} tokens/s; "
                f"indexed after {ours['indexed']:.1f} s, first batch after {ours['first_batch']:.1f} s "
                f"({ours['first_batch'] / ours['seconds']:.1%} of the total); second start "
                f"{ours['second_start']:.2f} s",
                flush=True,
            )
        best = 0.0
        for processes, parallel in SETTINGS:
            theirs = in_a_process("map", str(file), str(processes), TOKENIZERS_PARALLELISM=parallel)
            rate = theirs["tokens"] / theirs["seconds"]
            best = max(best, rate)
            print(
                f"datasets.map, {processes} processes, parallel tokenizer {parallel}: {theirs['seconds']:.1f} s, "
                f"{rate:,.0f} tokens/s",
                flush=True,
            )
        assert theirs["tokens"] == ours["tokens"], "both sides shall make the same tokens"
        print(
            f"medray has {ours['tokens'] / ours['seconds'] / best:.2f} times the tokens a second of the best of them"
        )
    packages = ("medray", "ray", "datasets", "transformers", "tokenizers", "pyarrow")
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["map"]:
        print(json.dumps(by_map(sys.argv[2], int(sys.argv[3]))))
    elif sys.argv[1:2] == ["medray"]:
        print(json.dumps(by_medray(*sys.argv[2:5])))
    else:
        main()
