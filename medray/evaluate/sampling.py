"""Sampling, stop texts and what watches an answer while it is written, as callbacks of transformers' generate().

transformers draws the tokens of all rows of a batch from one generator, so the text of a row would depend on the rows
that it shares a batch with. Here each row has its own random numbers, which depend only on the seed and the row's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.evaluate.decoding import Decoding

# Called after each token with the ids generated so far, int64 [rows, tokens]; returns which rows should end.
Watch = Callable[[Tensor], Sequence[bool]]
COLDEST = 1e-6  # scores divided by less overflow, and a token without any probability would be drawn


class Draw:
    """A logits processor that draws the next token of each row and leaves only this token possible.

    `generate` must then take the most probable token (do_sample=False).
    """

    def __init__(self, decoding: Decoding, rows: Sequence[str], begin: int) -> None:
        """Prepare one draw per token. rows: id of each row. begin: number of ids before the first generated one."""
        self._decoding, self._begin = decoding, begin
        numbers = [random_numbers(decoding.seed, row, decoding.max_new_tokens) for row in rows]
        self._numbers = torch.from_numpy(np.stack(numbers))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [rows, vocabulary]: 0 for the token that was drawn, and minus infinity for all others."""
        likely = torch.softmax(scores.float() / max(self._decoding.temperature, COLDEST), dim=-1)
        if self._decoding.top_p < 1:
            ordered, places = likely.sort(dim=-1, descending=True)
            before = ordered.cumsum(dim=-1) - ordered
            kept = ordered.masked_fill(before >= self._decoding.top_p, 0.0)
            likely = torch.zeros_like(likely).scatter(1, places, kept)
        # The token whose interval of the cumulative probabilities contains the row's number.
        sums = likely.double().cumsum(dim=-1)
        step = input_ids.shape[1] - self._begin
        numbers = self._numbers[:, step : step + 1].to(sums.device) * sums[:, -1:]
        chosen = torch.searchsorted(sums, numbers, right=True).clamp_max(scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class StopAt:
    """A stopping criterion that ends a row whose text contains one of the texts."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], begin: int) -> None:
        self._tokenizer, self._stop, self._begin = tokenizer, tuple(stop), begin
        # A token that is not special has at least one byte, so a text of n bytes is in the last n tokens.
        self._tokens = max(len(text.encode()) for text in stop) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows have ended, bool [rows]."""
        last = input_ids[:, self._begin :][:, -self._tokens :]
        texts = self._tokenizer.batch_decode(last, skip_special_tokens=True)
        found = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


class Watched:
    """A stopping criterion that ends the rows that a `Watch` names."""

    def __init__(self, watch: Watch, begin: int) -> None:
        self._watch, self._begin = watch, begin

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows have ended, bool [rows]."""
        return torch.tensor(self._watch(input_ids[:, self._begin :]), device=input_ids.device)


def random_numbers(seed: int, row: str, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1), float64, which depend only on the seed and the id of the row."""
    digest = hashlib.blake2b(f"{seed} {row}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    numbers: np.ndarray = np.random.default_rng(int.from_bytes(digest, "big")).random(count)
    return numbers
