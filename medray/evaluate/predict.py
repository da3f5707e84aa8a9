"""Predictions by a Ray Data job that reads an export: what a user of the weights would get.

Runs after training, when the group of workers has given its resources back. Prompts come from the validation split's
token shards, decoding and metrics are those of the evaluation during training.
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


@dataclass(frozen=True)
class PredictSpec:
    """rows: how many of the split, from its first. workers: tasks of `cpus` CPUs and `gpus` GPUs each."""

    export: str
    tokens: TokenSet
    rows: int
    batch_size: int
    max_new_tokens: int
    workers: int
    cpus: float
    gpus: float
    threads: int
    num_beams: int = 1
    base_settings: bool = False


@dataclass(frozen=True)
class Prediction:
    id: str
    prompt: str
    prediction: str


class _Predictor:
    """The export in memory, with the rows that it is asked about."""

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

        places = [self.rows[int(number)] for number in numbers]
        ids = [self.store.prompt(*place) for place in places]
        asked = prompts(ids, self.spec.tokens.spec.architecture, self.tokenizer.pad_token_id)
        texts = generate(
            self.model,
            self.tokenizer,
            asked,
            max_new_tokens=self.spec.max_new_tokens,
            device=self.device,
            num_beams=self.spec.num_beams,
            base_settings=self.spec.base_settings,
        )
        read = [
            self.tokenizer.decode(ids[mask == 1], skip_special_tokens=True)
            for ids, mask in zip(asked.input_ids, asked.attention_mask, strict=True)
        ]
        return {
            "number": numbers,
            "id": [self.store.text(*place, "id") for place in places],
            "prompt": read,
            "prediction": texts,
        }


@lru_cache(maxsize=1)
def _predictor(spec: PredictSpec) -> _Predictor:
    """One export a process: loading it costs more than a batch."""
    return _Predictor(spec)


def by_length(spec: PredictSpec) -> list[int]:
    """Return the numbers of the first `rows` rows, one share a worker after the other, each with its longest prompts first.

    Rows of a batch then have prompts of about one length, so that little of it is padding, and the shares cost alike.
    """
    store = spec.tokens.store()
    lengths = [len(store.prompt(*place)) for place in spec.tokens.rows()[: spec.rows]]
    ordered = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    shares = _blocks(spec)
    return [number for share in range(shares) for number in ordered[share::shares]]


def _blocks(spec: PredictSpec) -> int:
    return min(spec.workers, max(1, -(-spec.rows // spec.batch_size)))


def predict(spec: PredictSpec) -> Sequence[Prediction]:
    """Predictions of the first `rows` validation rows, in their order."""
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
    """Return the predictions of rows that were answered in any order, by their numbers."""
    ordered = sorted(found, key=lambda row: row["number"])
    return [Prediction(row["id"], row["prompt"], row["prediction"]) for row in ordered]
