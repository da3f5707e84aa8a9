"""A cross-encoder that scores pairs of a test document and an example: the sigmoid of its one output, at 512 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medray.errors import InputError
from medray.plan.pretrained import from_pretrained

PAIR_TOKENS = 512
_BATCH = 16


class LoadedCrossEncoder:
    """A loaded cross-encoder. windows: whether a long example is read in windows, of which the largest score counts.

    Raises InputError if the model does not have one output.
    """

    def __init__(self, model: str, *, windows: bool) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._windows = windows
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer: Any = from_pretrained(AutoTokenizer, model)
            loaded: Any = from_pretrained(AutoModelForSequenceClassification, model, dtype=torch.float32)
        except InputError as error:
            raise InputError(error.what, key="icl.rerank_model", value=model, fix=error.fix) from None
        if loaded.config.num_labels != 1:
            raise InputError(
                f"this model has {loaded.config.num_labels} outputs, but a reranker has one",
                key="icl.rerank_model",
                value=model,
                fix="use a cross-encoder, or icl.rerank: fusion",
            )
        self._model: Any = loaded.to(self._device).eval()
        longest = getattr(loaded.config, "max_position_embeddings", None)
        self._max_tokens = min(PAIR_TOKENS, longest) if isinstance(longest, int) else PAIR_TOKENS

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return a score from 0 to 1 for each passage; higher is better."""
        import torch

        # The query may use half of the tokens, so that a part of each passage is always read.
        cut = self._tokenizer(
            query, add_special_tokens=False, truncation=True, max_length=self._max_tokens // 2
        )
        query = self._tokenizer.decode(cut["input_ids"])
        spare = {"return_overflowing_tokens": True, "stride": self._max_tokens // 8} if self._windows else {}
        found = [0.0] * len(passages)
        for start in range(0, len(passages), _BATCH):
            part = list(passages[start : start + _BATCH])
            encoded = self._tokenizer(
                [query] * len(part),
                part,
                truncation="only_second",
                max_length=self._max_tokens,
                padding=True,
                return_tensors="pt",
                **spare,
            )
            owners = encoded.pop("overflow_to_sample_mapping", torch.arange(len(part))).tolist()
            with torch.inference_mode():
                logits = self._model(**encoded.to(self._device)).logits[:, 0]
            for owner, score in zip(owners, torch.sigmoid(logits.float()).tolist(), strict=True):
                found[start + owner] = max(found[start + owner], score)
        return found
