"""Vectors of texts by a sentence encoder: transformers' AutoModel, pooled and normalised to length 1.

Texts of similar length are embedded together, so that little is computed for padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medray.config.icl import EMBEDDER, IclConfig
from medray.errors import InputError
from medray.plan.packaged import embedder_folder
from medray.plan.pretrained import from_pretrained

REVISION = 1  # of the way in which vectors are made; a change discards all caches
_HASHED = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """A sentence encoder and the way in which it is used.

    model: folder or hub id. prefix: text before each text. max_tokens: longer texts lose their end.
    """

    model: str
    pooling: str
    prefix: str
    max_tokens: int
    batch_size: int

    @property
    def digest(self) -> str:
        """Return a hash of everything that decides a vector: the model's files, pooling, prefix and longest text.

        A model on a hub is identified by its name. The batch size is not included.
        """
        values = {name: value for name, value in asdict(self).items() if name != "batch_size"}
        folder = Path(self.model)
        if folder.is_dir():
            values["model"] = folder_digest(str(folder.resolve()))
        text = json.dumps({"revision": REVISION, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def encoder_specs(icl: IclConfig) -> tuple[EncoderSpec, EncoderSpec]:
    """Return the encoders of training documents and of test documents.

    Raises InputError if the packaged encoder is asked for and not installed.
    """

    def spec(name: str, prefix: str) -> EncoderSpec:
        return EncoderSpec(
            model=str(embedder_folder(name)) if name == EMBEDDER else name,
            pooling=icl.pooling,
            prefix=prefix,
            max_tokens=icl.embedding_tokens,
            batch_size=icl.embedding_batch_size,
        )

    passages = spec(icl.embedding_model, icl.passage_prefix)
    return passages, spec(icl.query_model or icl.embedding_model, icl.query_prefix)


class TextEncoder:
    """A loaded encoder. device: the GPU of this process, else the CPU."""

    def __init__(self, spec: EncoderSpec) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.tokenizer: Any = from_pretrained(AutoTokenizer, spec.model)
            model: Any = from_pretrained(AutoModel, spec.model, dtype=torch.float32)
        except InputError as error:
            raise InputError(error.what, key="icl.embedding_model", value=spec.model, fix=error.fix) from None
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: Any = model.to(self.device).eval()
        longest = getattr(model.config, "max_position_embeddings", None)
        self.max_tokens = min(spec.max_tokens, longest) if isinstance(longest, int) else spec.max_tokens

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, float32 [texts, size], each of length 1."""
        import torch

        if not texts:
            return np.zeros((0, int(self.model.config.hidden_size)), dtype=np.float32)
        ids = self.tokenizer(
            [self.spec.prefix + text for text in texts],
            truncation=True,
            max_length=self.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        vectors: np.ndarray | None = None
        with torch.inference_mode():
            for start in range(0, len(order), self.spec.batch_size):
                rows = order[start : start + self.spec.batch_size]
                made = self._batch([ids[row] for row in rows])
                if vectors is None:
                    vectors = np.empty((len(ids), made.shape[1]), dtype=np.float32)
                vectors[rows] = made
        assert vectors is not None
        return vectors

    def _batch(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        longest = max(max(map(len, ids)), 1)
        tokens = np.full((len(ids), longest), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(ids), longest), dtype=np.int64)
        for row, each in enumerate(ids):
            tokens[row, : len(each)] = each
            mask[row, : len(each)] = 1
        there = torch.from_numpy(mask).to(self.device)
        states = self.model(
            input_ids=torch.from_numpy(tokens).to(self.device), attention_mask=there
        ).last_hidden_state
        if self.spec.pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = there.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        found: np.ndarray = torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()
        return found


@lru_cache(maxsize=2)
def encoder(spec: EncoderSpec) -> TextEncoder:
    """Return a loaded encoder. It is loaded once per process."""
    return TextEncoder(spec)


def embed(texts: Sequence[str], spec: EncoderSpec) -> np.ndarray:
    """Return the vectors of texts, computed in this process, float32 [texts, size]."""
    return encoder(spec).embed(texts)


@lru_cache(maxsize=8)
def folder_digest(folder: str) -> str:
    """Return a hash of the files of a model folder. It is computed once per process."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and file.suffix in _HASHED:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
