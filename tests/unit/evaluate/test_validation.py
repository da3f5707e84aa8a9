"""Evaluation on a live model: every row counts once, whatever the ranks; generation starts from the store's prompts."""

from __future__ import annotations

from typing import Any

import memory_store
import oracle
import pytest
import torch
from losses import loss
from memory_store import MemoryStore
from thread_ranks import Ranks
from tiny_decoders import decoder

from medray.evaluate.decoding import Decoding
from medray.evaluate.loss_sums import PLAIN
from medray.evaluate.validation import Validation
from medray.train.loop.live_evaluation import losses

CPU = torch.device("cpu")
MADE = memory_store.rows(11)
METHOD = loss({"label": 0.5, "rationale": 0.5})


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


@pytest.mark.parametrize("world_size", [2, 3])
def test_all_ranks_get_the_loss_of_all_rows(world_size: int) -> None:
    """Each rank sees a part of them: the sums are added up before anything is divided."""
    _, rows = validation()
    model = decoder("llama-tiny", "sdpa")
    found = []
    for count in (1, world_size):
        ranks = Ranks(count)
        for engine in ranks.engines:
            engine.model = model
        found += ranks.run(lambda engine: losses(rows, engine, METHOD, PLAIN))
    assert len(found) == 1 + world_size
    for one in found[1:]:
        assert one == pytest.approx(found[0], rel=1e-6)


def test_text_is_generated_without_dropout() -> None:
    """Whatever mode training has left the model in."""
    model = decoder("gpt2", dropout=0.5).train()
    _, rows = validation()

    def texts() -> list[tuple[int, str]]:
        tokenizer: Any = Words()
        model.train()
        return rows.predictions(
            model, tokenizer, 4, Decoding(max_new_tokens=8), device=CPU, rank=0, world_size=1, synced=False
        )

    assert texts() == texts()
    assert not model.training


@pytest.mark.parametrize(("world_size", "beams"), [(1, 1), (2, 1), (2, 3)])
def test_predictions_continue_the_prompt_of_each_row_once(world_size: int, beams: int) -> None:
    model = decoder("llama-tiny", "sdpa").eval()
    store, rows = validation()
    found: list[tuple[int, str]] = []
    for rank in range(world_size):
        decoding = Decoding(max_new_tokens=4, num_beams=beams)
        found += rows.predictions(
            model, Words(), 7, decoding, device=CPU, rank=rank, world_size=world_size, synced=False
        )
    assert sorted(number for number, _ in found) == list(range(7))
    for number, text in found:
        prompt = torch.from_numpy(store.prompt(*store.place(number))).long()[None]
        alone = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, pad_token_id=0,
            num_beams=beams,
        )  # fmt: skip
        assert text == Words().batch_decode(alone[:, prompt.shape[1] :], True)[0]
