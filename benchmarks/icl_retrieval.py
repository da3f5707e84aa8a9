"""The costs of retrieval: embedding beside a plain loop of transformers, a large search, and bc5cdr from texts to examples.

    .venv/bin/python benchmarks/icl_retrieval.py [embed] [search] [corpus] [--texts N] [--passages N] [--queries N]

embed: N texts (10,000) of about 128 tokens, by medray and by a plain loop that sorts texts by length and pads batches, in
alternation on the same texts. CPU seconds are compared, so other work on the machine matters less. search: N queries
(10,000) over N random vectors (100,000) of the encoder's size, exact, with ties and exclusions as in `icl select`. corpus:
index and selection of bc5cdr (500 + 500 documents) with a new cache; needs MEDRAY_CORPORA.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("embed", "search", "corpus")
TOKENS = 128
TURNS = 3
BATCH = 32


def plain_loop(folder: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a loop as a user of transformers writes it: sorted by length, padded, mean pooling, normalised."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                batch = tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=TOKENS,
                    return_tensors="pt",
                )
                states = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
                pooled = (states * mask).sum(1) / mask.sum(1)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    return embed


def made_texts(count: int) -> list[str]:
    """Return texts of 60 to 180 words from consultations of the simulated clinic, each different."""
    from medray.clinic import consultations

    rows = consultations.rows(0, count, split="train", size="small")
    words = [row["dialogue"].split() for row in rows]
    return [" ".join(each[: 60 + (at * 37) % 121]) for at, each in enumerate(words)]


def measure_embedding(count: int) -> dict[str, Any]:
    from medray.config.icl import EMBEDDER
    from medray.icl.index.encoder import EncoderSpec, TextEncoder
    from medray.plan.packaged import embedder_folder

    texts = made_texts(count)
    folder = str(embedder_folder(EMBEDDER))
    spec = EncoderSpec(model=folder, pooling="mean", prefix="", max_tokens=TOKENS, batch_size=BATCH)
    encoder, plain = TextEncoder(spec), plain_loop(folder)
    seconds: dict[str, list[float]] = {"medray": [], "plain": []}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(TURNS):
        for name, embed in (("medray", encoder.embed), ("plain", plain)):
            begun = time.process_time()
            vectors[name] = embed(texts)
            seconds[name].append(time.process_time() - begun)
    ours, theirs = seconds["medray"], seconds["plain"]
    return {
        "texts": count,
        "medray_texts_per_cpu_second": count / statistics.median(ours),
        "plain_texts_per_cpu_second": count / statistics.median(theirs),
        "medray_over_plain": statistics.median(other / one for one, other in zip(ours, theirs, strict=True)),
        "largest_difference_of_a_value": float(np.abs(vectors["medray"] - vectors["plain"]).max()),
    }


def measure_search(passages: int, queries: int) -> dict[str, Any]:
    from medray.icl.index.vector_index import build
    from medray.icl.selection.select import BATCH as BATCH_QUERIES

    generator = np.random.default_rng(0)

    def unit(count: int) -> np.ndarray:
        drawn = generator.standard_normal((count, 384), dtype=np.float32)
        made: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return made

    index = build(unit(passages), [f"d{at}" for at in range(passages)], "flat", seed=0)
    asked = unit(queries)
    begun, cpu = time.perf_counter(), time.process_time()
    for start in range(0, queries, BATCH_QUERIES):
        index.search(asked[start : start + BATCH_QUERIES], 30, refused=lambda query, row: row % 1000 == 0)
    return {
        "passages": passages,
        "queries": queries,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
    }


def measure_corpus() -> dict[str, Any]:
    from medray.config.icl import read_icl
    from medray.icl.workflow import Workflow

    root = Path(os.environ["MEDRAY_CORPORA"]) / "bc5cdr"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "icl.yaml"
        config.write_text(
            json.dumps({"run": {"storage": "runs"}, "data": {"dataset": "bc5cdr", "root": str(root)}})
        )
        begun, cpu = time.perf_counter(), time.process_time()
        work = Workflow(read_icl(config))
        counts = work.selection.counts(work.icl.shots)
        return {
            "train": len(work.documents.train),
            **counts,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the costs of retrieval.")
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS))
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, Any] = {
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "faiss-cpu", "bm25s")
        },
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": os.getloadavg(),
    }
    if "embed" in asked.parts:
        found["embed"] = measure_embedding(asked.texts)
    if "search" in asked.parts:
        found["search"] = measure_search(asked.passages, asked.queries)
    if "corpus" in asked.parts:
        found["corpus"] = measure_corpus()
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
