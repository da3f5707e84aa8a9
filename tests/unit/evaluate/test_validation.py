"""Evaluation on a live model: every row counts once, whatever the ranks; generation starts from the store's prompts."""

from __future__ import annotations

from typing import Any

import memory_store
import oracle
import pytest
import torch
from memory_store import MemoryStore
from tiny_decoders import decoder

from medray.evaluate.validation import Validation
from medray.methods.loss import Method

CPU = torch.device("cpu")
MADE = memory_store.rows(11)
METHOD = Method({"label": 0.5, "rationale": 0.5})


class Words:
    """A tokenizer that writes ids as they are."""

    pad_token_id, eos_token_id = 0, 1

    def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [" ".join(str(token) for token in row if token > 1) for row in rows.tolist()]


def validation(count: int = len(MADE)) -> tuple[MemoryStore, Validation]:
    store = MemoryStore(MADE)
    asked: Any = store
    return store, Validation(asked, tuple(store.place(number) for number in range(count)), "causal", 0, 3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [11, 6])
def test_losses_are_those_of_the_rows_alone(world_size: int, count: int) -> None:
    """6: fewer rows than their shards hold."""
    model = decoder("llama-tiny", "sdpa")
    _, rows = validation(count)
    totals = rows.totals(METHOD)
    parts = [rows.loss_sums(model, METHOD, CPU, rank, world_size) for rank in range(world_size)]
    assert not model.training
    for task in METHOD.tasks:
        table = [
            {f"{task}.input_ids": row[task][0].tolist(), f"{task}.labels": row[task][1].tolist()}
            for row in MADE[:count]
        ]
        with torch.no_grad():
            wanted = float(oracle._mean(model, table, task, seq2seq=False))
        assert sum(part[task] for part in parts) / totals[task] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("world_size", "beams"), [(1, 1), (2, 1), (2, 3)])
def test_predictions_continue_the_prompt_of_each_row_once(world_size: int, beams: int) -> None:
    model = decoder("llama-tiny", "sdpa").eval()
    store, rows = validation()
    found: list[tuple[int, str]] = []
    for rank in range(world_size):
        found += rows.predictions(
            model, Words(), 7, max_new_tokens=4, device=CPU, rank=rank, world_size=world_size, synced=False,
            num_beams=beams,
        )  # fmt: skip
    assert sorted(number for number, _ in found) == list(range(7))
    for number, text in found:
        prompt = torch.from_numpy(store.prompt(*store.place(number))).long()[None]
        alone = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, pad_token_id=0,
            num_beams=beams,
        )  # fmt: skip
        assert text == Words().batch_decode(alone[:, prompt.shape[1] :], True)[0]
