"""Predictions of an export by a Ray Data job: the texts that a user of the weights would get.

The job runs after training, when the workers have released their resources. Prompts come from the token shards of the
validation split; generation and metrics are the same as in the evaluation during training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray.data

from medray import storage
from medray.data.batching.collate import prompts
from medray.data.shards.pipeline import quiet_ray_data
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.evaluate.decoding import Decoding


@dataclass(frozen=True)
class PredictSpec:
    """The settings of a prediction job.

    rows: number of rows to predict, from the first of the split. workers: number of tasks, each with `cpus` CPUs and
    `gpus` GPUs.
    """

    export: str
    tokens: TokenSet
    rows: int
    batch_size: int
    decoding: Decoding
    workers: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True)
class Prediction:
    id: str
    prompt: str
    prediction: str


class _Predictor:
    """A loaded export, with the rows to generate text for."""

    def __init__(self, spec: PredictSpec) -> None:
        import torch

        from medray.models.export import load_export

        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = load_tokenizer(spec.export)
        self.model = load_export(storage.local(spec.export), self.device)
        self.store = spec.tokens.store()
        self.rows = spec.tokens.rows()

    def answer(self, numbers: np.ndarray) -> dict[str, Any]:
        from medray.evaluate.generate import generate

        rows = [self.rows[int(number)] for number in numbers]
        ids = [self.store.prompt(*row) for row in rows]
        asked = prompts(ids, self.spec.tokens.spec.architecture, self.tokenizer.pad_token_id)
        texts = generate(
            self.model,
            self.tokenizer,
            asked,
            self.spec.decoding,
            device=self.device,
        )
        read = [
            self.tokenizer.decode(ids[mask == 1], skip_special_tokens=True)
            for ids, mask in zip(asked.input_ids, asked.attention_mask, strict=True)
        ]
        return {
            "number": numbers,
            "id": [self.store.text(*row, "id") for row in rows],
            "prompt": read,
            "prediction": texts,
        }


@lru_cache(maxsize=1)
def _predictor(spec: PredictSpec) -> _Predictor:
    """Load the export once per process: loading takes longer than a batch."""
    return _Predictor(spec)


def by_length(spec: PredictSpec) -> list[int]:
    """Return the indices of the first `rows` rows, ordered so that rows of similar length are predicted together.

    There is one share per worker, each with its longest prompts first. The prompts of a batch then need little
    padding, and all shares take about the same time.
    """
    store = spec.tokens.store()
    lengths = [len(store.prompt(*row)) for row in spec.tokens.rows()[: spec.rows]]
    ordered = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    shares = _blocks(spec)
    return [number for share in range(shares) for number in ordered[share::shares]]


def _blocks(spec: PredictSpec) -> int:
    return min(spec.workers, max(1, -(-spec.rows // spec.batch_size)))


def predict(spec: PredictSpec) -> Sequence[Prediction]:
    """Run the prediction job. Return the predictions of the first `rows` validation rows, in their order."""
    quiet_ray_data()
    items = [{"number": number} for number in by_length(spec)]
    numbers = ray.data.from_items(items, override_num_blocks=_blocks(spec))
    found = numbers.map_batches(
        lambda batch: _predictor(spec).answer(batch["number"]),
        batch_size=spec.batch_size,
        num_cpus=spec.cpus,
        num_gpus=spec.gpus or None,
    ).take_all()
    return in_file_order(found)


def in_file_order(found: Sequence[Mapping[str, Any]]) -> list[Prediction]:
    """Return the predictions sorted by row number. found: rows in any order."""
    ordered = sorted(found, key=lambda row: row["number"])
    return [Prediction(row["id"], row["prompt"], row["prediction"]) for row in ordered]
