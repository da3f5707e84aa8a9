"""Preference pairs, their token shards, and what plain torch says of them, one answer at a time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import oracle
import pyarrow.parquet as pq
import tiny
import torch
from torch import Tensor

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.encode.encoder import EncodeSpec
from medray.data.shards.preparation import encode_spec
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.models.load import load_model
from medray.train.loop.batch_reader import BatchLayout, BatchReader, Prepared
from medray.train.worker_plan import WorkerPlan

COUNT, LONG = 19, 5  # the rejected answer of row LONG is over the limit
LIMITS: dict[str, Any] = {"max_input_tokens": 64, "max_label_tokens": 32}
ANSWERS = ("label", "rejected")


def pairs(count: int = COUNT) -> list[dict[str, Any]]:
    """Prompts with two answers of very uneven length."""
    made = []
    for number in range(count):
        rng = random.Random(f"pair {number}")

        def words(low: int, high: int, rng: random.Random = rng) -> str:
            return " ".join(rng.choices(tiny.WORDS, k=rng.randint(low, high)))

        rejected = words(80, 90) if number == LONG else words(1, 12)
        row = {"id": f"row-{number}", "prompt": words(4, 30), "chosen": words(1, 12), "rejected": rejected}
        made.append(row)
    return made


def spec(method: Mapping[str, Any], architecture: str) -> EncodeSpec:
    return encode_spec(Config.model_validate({"method": method, "data": LIMITS}), architecture)


def token_sets(folder: Path, method: Mapping[str, Any], architecture: str) -> dict[str, TokenSet]:
    """A training and a validation split of the same pairs."""
    return {
        split: tiny.token_set(
            folder,
            pairs(),
            architecture=architecture,
            truth=split == "validation",
            name=split,
            spec=spec(method, architecture),
            method=spec_of(Config.model_validate({"method": method}).method),
        )
        for split in ("train", "validation")
    }


def stored(tokens: TokenSet) -> dict[int, list[dict[str, Any]]]:
    """The rows of each shard, read without medray."""
    files = Path(tokens.folder).glob("shard-*.parquet")
    return {int(file.stem.split("-")[1]): pq.read_table(file).to_pylist() for file in files}


def started(made: WorkerPlan) -> Any:
    """The model that a plan begins with."""
    return load_model(
        made.config.model,
        made.model,
        load_tokenizer(made.train.tokenizer),
        dtype=torch.float32,
        seed=made.config.run.seed,
    )


def is_pair(row: Mapping[str, Any]) -> bool:
    return all(row[f"{task}.input_ids"] for task in ANSWERS)


def token_counts(row: Mapping[str, Any], *, seq2seq: bool) -> list[int]:
    """The number of tokens with loss of each answer."""
    found = []
    for task in ANSWERS:
        ids = row[f"{task}.input_ids"]
        labels = row[f"{task}.labels"] if seq2seq else oracle._labels(ids, row[f"{task}.spans"])
        found.append(sum(label != -100 for label in (labels if seq2seq else labels[1:])))
    return found


def log_probabilities(model: Any, row: dict[str, Any], *, seq2seq: bool) -> list[Tensor]:
    """The summed log-probability of each answer."""
    counts = token_counts(row, seq2seq=seq2seq)
    return [
        -count * oracle._mean(model, [row], task, seq2seq=seq2seq)
        for task, count in zip(ANSWERS, counts, strict=True)
    ]


def batches(made: WorkerPlan) -> list[Sequence[dict[str, Any]]]:
    """The rows of each step of a plan."""
    order, tables = made.train.plan(made.config), stored(made.train)
    found: list[Sequence[dict[str, Any]]] = []
    for step in range(made.total_steps):
        batch = order.batch(step)
        found.append([tables[int(s)][int(r)] for s, r in zip(batch.shards, batch.rows, strict=True)])
    return found


def batch(made: WorkerPlan, rank: int, ranks: int, micro: int) -> Prepared:
    """The arrays of the first step for one of several ranks."""
    return BatchReader(
        made.train.store(),
        made.train.plan(made.config),
        made.method,
        BatchLayout(micro, None),
        rank=rank,
        world_size=ranks,
        architecture=made.train.spec.architecture,
        pad_id=0,
        packed=made.config.data.pack_tokens is not None,
        reference=made.stored_reference(made.train),
    ).prepare(0)
