"""Embedding of many texts as a Ray Data job, over the CPUs or GPUs of a cluster, by the function of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from medray.data.shards.pipeline import quiet_ray_data
from medray.icl.index.encoder import EncoderSpec, embed

BLOCK_TEXTS = 512  # texts that a task sorts by length and embeds


def embed_by_ray(texts: Sequence[str], spec: EncoderSpec) -> np.ndarray:
    """Return the vectors of texts, float32 [texts, size]. Ray must be connected; a task takes one CPU, or one GPU."""
    quiet_ray_data()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    # Texts of similar length share a block, longest first, so that the last tasks are the short ones.
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    blocks = max(1, -(-len(texts) // BLOCK_TEXTS))
    rows = ray.data.from_items(
        [{"row": row, "text": texts[row]} for row in order], override_num_blocks=blocks
    )

    def embedded(batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        if not gpus:  # a task has one CPU
            torch.set_num_threads(1)
        return {"row": batch["row"], "vector": embed([str(text) for text in batch["text"]], spec)}

    found = rows.map_batches(embedded, batch_size=BLOCK_TEXTS, num_cpus=0.9, num_gpus=1 if gpus else None)
    vectors: np.ndarray | None = None
    for batch in found.iter_batches(batch_size=BLOCK_TEXTS, batch_format="numpy"):
        made: np.ndarray = np.stack(list(batch["vector"]))
        if vectors is None:
            vectors = np.empty((len(texts), made.shape[1]), dtype=np.float32)
        vectors[batch["row"]] = made
    assert vectors is not None
    return vectors
